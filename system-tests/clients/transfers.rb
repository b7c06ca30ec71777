# Transfers by Ruby's APIs, concurrently, one per line: NUMBER ROLE API URL FILE FRAMING, tab-separated.
# Prints a line for each: NUMBER, `done` or `failed`, and the message of the API. The CA is in CLIENTS_CA.

require "net/http"
require "open-uri"

CA = ENV.fetch("CLIENTS_CA")

def start(url, &block)
  Net::HTTP.start(url.host, url.port, use_ssl: url.scheme == "https", ca_file: CA, &block)
end

def receive_all(http, url, file)
  http.request_get(url) do |response|
    response.value # raises unless the status is 2xx
    File.open(file, "wb") { |out| response.read_body { |part| out.write(part) } }
  end
end

RECEIVE = {
  "Net::HTTP" => lambda { |url, file, _|
    start(url) { |http| receive_all(http, url, file) }
  },

  "Net::HTTP, length compared" => lambda { |url, file, _|
    # snippet: Net::HTTP, length compared
    Net::HTTP.start(url.host, url.port, use_ssl: url.scheme == "https", ca_file: CA) do |http|
      http.request_get(url) do |response|
        response.value # raises unless the status is 2xx
        File.open(file, "wb") { |out| response.read_body { |part| out.write(part) } } # in chunks: EOFError at a cut
        length = response.content_length
        raise EOFError, "cut" if length && File.size(file) != length
      end
    end
    # snippet end
  },

  "URI.open, IO.copy_stream" => lambda { |url, file, _|
    url.open(ssl_ca_cert: CA) { |body| IO.copy_stream(body, file) }
  },
}

SEND = {
  "Net::HTTP" => lambda { |url, file, framing|
    request = Net::HTTP::Put.new(url)
    if framing == "length"
      request.content_length = File.size(file)
    else
      request["Transfer-Encoding"] = "chunked"
    end
    request.content_type = "application/octet-stream"
    File.open(file, "rb") do |body|
      request.body_stream = body
      start(url) { |http| http.request(request).value }
    end
  },
}

ROLES = { "receive" => RECEIVE, "send" => SEND }

$stdout.sync = true
$stdout.write("ready\n")
threads = $stdin.each_line(chomp: true).map do |line|
  number, role, api, url, file, framing = line.split("\t")
  Thread.new do
    ROLES.fetch(role).fetch(api).call(URI(url), file, framing)
    $stdout.write("#{number}\tdone\t\n")
  rescue StandardError => e
    $stdout.write("#{number}\tfailed\t#{e.class}: #{e.message.split.join(" ")}\n")
  end
end
threads.each(&:join)
