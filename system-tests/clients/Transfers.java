import java.io.*;
import java.net.*;
import java.net.http.*;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.*;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.concurrent.Executors;
import javax.net.ssl.*;

/**
 * Transfers by Java's APIs, as many at once as there are lines: NUMBER ROLE API URL FILE FRAMING, tab-separated.
 * Each is answered by a line: NUMBER, `done` or `failed`, and what the API said. The CA is in CLIENTS_CA.
 */
class Transfers {
    static SSLContext trust;

    public static void main(String[] arguments) throws Exception {
        System.setProperty("http.keepAlive", "false"); // each transfer by itself: no connection that another has left idle
        trust = trusting(Path.of(System.getenv("CLIENTS_CA")));
        HttpsURLConnection.setDefaultSSLSocketFactory(trust.getSocketFactory());
        System.out.println("ready");
        var threads = Executors.newCachedThreadPool();
        for (String line : (Iterable<String>) new BufferedReader(new InputStreamReader(System.in)).lines()::iterator) {
            String[] fields = line.split("\t");
            threads.submit(() -> System.out.println(fields[0] + "\t" + answer(fields)));
        }
        threads.shutdown();
    }

    static String answer(String[] fields) {
        try {
            transfer(fields[1] + " " + fields[2], URI.create(fields[3]), Path.of(fields[4]), fields[5]);
            return "done\t";
        } catch (Throwable failure) {
            return "failed\t" + failure.getClass().getSimpleName() + ": " + failure.getMessage();
        }
    }

    static void transfer(String what, URI url, Path file, String framing) throws Exception {
        switch (what) {
            case "receive HttpClient" -> receive(client(HttpClient.Version.HTTP_1_1, url), url, file);
            case "receive HttpClient, HTTP/2" -> receive(client(HttpClient.Version.HTTP_2, url), url, file);
            case "receive URL.openStream()" -> {
                // snippet: URL.openStream()
                try (InputStream body = url.toURL().openStream()) {
                    Files.copy(body, file, StandardCopyOption.REPLACE_EXISTING);
                }
                // snippet end
            }
            case "send HttpClient" -> send(client(HttpClient.Version.HTTP_1_1, url), url, file, framing);
            case "send HttpClient, HTTP/2" -> send(client(HttpClient.Version.HTTP_2, url), url, file, framing);
            case "send HttpURLConnection" -> sendByConnection(url, file, framing);
            default -> throw new IllegalArgumentException(what);
        }
    }

    static HttpClient client(HttpClient.Version version, URI url) {
        return HttpClient.newBuilder().version(version).sslContext(trust).build();
    }

    static void receive(HttpClient client, URI url, Path file) throws Exception {
        // snippet: HttpClient
        var response = client.send(HttpRequest.newBuilder(url).build(), BodyHandlers.ofFile(file)); // throws at a cut
        if (response.statusCode() != 200) throw new IOException("status " + response.statusCode());
        // snippet end
    }

    static void send(HttpClient client, URI url, Path file, String framing) throws Exception {
        var body = framing.equals("length")
            ? HttpRequest.BodyPublishers.ofFile(file)
            : HttpRequest.BodyPublishers.ofInputStream(() -> open(file));
        var response = client.send(HttpRequest.newBuilder(url).PUT(body).build(), BodyHandlers.discarding());
        if (response.statusCode() != 200) throw new IOException("status " + response.statusCode());
    }

    static void sendByConnection(URI url, Path file, String framing) throws Exception {
        var connection = (HttpURLConnection) url.toURL().openConnection();
        connection.setRequestMethod("PUT");
        connection.setDoOutput(true);
        if (framing.equals("length")) connection.setFixedLengthStreamingMode(Files.size(file));
        else connection.setChunkedStreamingMode(0);
        try (var body = connection.getOutputStream()) {
            Files.copy(file, body);
        }
        if (connection.getResponseCode() != 200) throw new IOException("status " + connection.getResponseCode());
    }

    static InputStream open(Path file) {
        try {
            return Files.newInputStream(file);
        } catch (IOException failure) {
            throw new UncheckedIOException(failure);
        }
    }

    static SSLContext trusting(Path certificate) throws Exception {
        var store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (var file = Files.newInputStream(certificate)) {
            store.setCertificateEntry("server", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        var managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(store);
        var context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        return context;
    }
}
