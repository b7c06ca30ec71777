// One transfer by net/http: transfer ROLE API URL FILE FRAMING
// Exits with 0 if the API reports success. The CA is in CLIENTS_CA.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	role, api, url, file, framing := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	client := newClient(api == "net/http, HTTP/2")
	var err error
	if role == "receive" {
		err = receive(client, url, file)
	} else {
		err = send(client, url, file, framing == "length")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func newClient(http2 bool) *http.Client {
	certificate, err := os.ReadFile(os.Getenv("CLIENTS_CA"))
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		ForceAttemptHTTP2: http2,
	}}
}

// snippet: net/http
func receive(client *http.Client, url, file string) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	_, err = io.Copy(out, response.Body) // unexpected EOF at a cut
	return err
}

// snippet end

func send(client *http.Client, url, file string, withLength bool) error {
	body, err := os.Open(file)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodPut, url, body)
	if err != nil {
		return err
	}
	if withLength {
		info, err := body.Stat()
		if err != nil {
			return err
		}
		request.ContentLength = info.Size()
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	return nil
}
