# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_rendezvous_global_optspecs
    string join \n h/help V/version
end

function __fish_rendezvous_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_rendezvous_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_rendezvous_using_subcommand
    set -l cmd (__fish_rendezvous_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c rendezvous -n "__fish_rendezvous_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rendezvous -n "__fish_rendezvous_needs_command" -s V -l version -d 'Print version'
complete -c rendezvous -n "__fish_rendezvous_needs_command" -f -a "serve" -d 'Start the server'
complete -c rendezvous -n "__fish_rendezvous_needs_command" -f -a "send" -d 'Send files, a directory or a pipe, end to end encrypted'
complete -c rendezvous -n "__fish_rendezvous_needs_command" -f -a "recv" -d 'Receive what a link offers'
complete -c rendezvous -n "__fish_rendezvous_needs_command" -f -a "doctor" -d 'Find out what stands between you and a relay'
complete -c rendezvous -n "__fish_rendezvous_needs_command" -f -a "completions" -d 'Print the completions of a shell'
complete -c rendezvous -n "__fish_rendezvous_needs_command" -f -a "man" -d 'Print a page for man(1)'
complete -c rendezvous -n "__fish_rendezvous_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l host -d 'Name or address to listen on' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l port -d 'Port to listen on; 0 picks a free one' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l tls-cert -d 'Certificate chain, in PEM; --port then speaks TLS' -r -F
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l tls-key -d 'Private key of the certificate, in PEM' -r -F
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l plain-port -d 'Additional port of --host, without TLS' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l admin-listen -d 'Listener for operators, without TLS' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l public-url -d 'URL at which clients reach this very server' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l create-token-file -d 'File with the token that POST /stream requires, and the first side of a path' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l admin-token-file -d 'File with the token that GET /stream, GET /events and GET /metrics require' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l trusted-proxy -d 'Network of proxies that may name the client; may be repeated' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l cors-origin -d 'Origin whose web pages may use the server, or * for any; may be repeated' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l allow-host -d 'Additional name that loopback listeners accept as Host; may be repeated' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l cluster -d 'Redis or Valkey that has the list of nodes' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l cluster-name -d 'Name of the cluster; several may share an engine' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l cluster-listen -d 'Listener for the other nodes' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l cluster-advertise -d 'Where other nodes reach --cluster-listen [default: own address]' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l cluster-secret-file -d 'File with the secret by which nodes know each other' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l ttl -d 'How long a stream or a path waits for both sides' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l max-ttl -d 'Longest ttl that the creator of a stream may set' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l idle-timeout -d 'How long a transfer may move no byte before it is aborted' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l head-timeout -d 'How long a request head or a JSON body may take' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l keep-alive -d 'How long a connection is kept open between two requests' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l drain-timeout -d 'How long a shutdown waits for streams' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l peer-timeout -d 'How long a client may acknowledge nothing: 3s to 12h' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l max-streams -d 'Streams that have not ended; more get 503' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l max-metadata-bytes -d 'Memory for header sets, error reports and JSON bodies' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l max-head-bytes -d 'Bytes of a request head: 4k to 1m; more get 431' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l max-connections -d 'Connections of clients; more get 503' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l max-streams-per-connection -d 'Concurrent requests of an HTTP/2 connection: 2 to 4000' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l max-http2-body-bytes -d 'Memory for the bodies of HTTP/2 uploads' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l max-connections-per-client -d 'Connections of one client [default: 10000, and no limit on loopback]' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l max-streams-per-client -d 'Streams of one client [default: 1500, and no limit on loopback]' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l max-creations-per-minute -d 'Streams that one client creates per minute [default: 6000, and no limit on loopback]' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l max-stream-bytes -d 'Bytes of one stream; more get 413 [default: no limit]' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l max-stream-rate -d 'Maximum rate of one stream, in bytes per second [default: no limit]' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l min-upload-rate -d 'Minimum rate of an upload, in bytes per second [default: no limit]' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l threads -d 'Threads that serve connections [default: one for each core]' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l data-path -d 'How bodies are moved if neither side uses TLS' -r -f -a "splice\t''
copy\t''"
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l log-level -d 'Lowest level to log' -r -f -a "error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l log -d 'Which events to log, instead of --log-level' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l log-format -d 'Format of the log on standard error' -r -f -a "text\t''
json\t''"
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l no-paths -d 'Serve no named paths: /p/... then gets 404'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l open-list -d 'Show the list of streams and the metrics to everybody'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -l cluster-tls -d 'Encrypt connections between nodes'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand serve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand send" -l to -d 'URL of the relay, such as `https://relay.example`' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand send" -l token-file -d 'File with the create token of the relay, if it needs one' -r -F
complete -c rendezvous -n "__fish_rendezvous_using_subcommand send" -l name -d 'Name that the receiver gets [default: that of the first path, or stdin]' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand send" -l give-up -d 'How long to go on without any progress' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand send" -l replay-buffer -d 'How far a pipe can go back after a cut' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand send" -l qr -d 'Show the link as a QR code too'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand send" -l plain -d 'Send without encryption, to a client such as curl or a browser'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand send" -l json -d 'Report each event as a line of JSON on standard output'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand send" -s q -l quiet -d 'Print only the link or the path of what was received, and errors'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand send" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand recv" -s o -l output -d 'Directory to receive into, file name to give, or - for standard output [default: this directory]' -r -F
complete -c rendezvous -n "__fish_rendezvous_using_subcommand recv" -l give-up -d 'How long to go on without any progress' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand recv" -l force -d 'Replace what exists under the name'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand recv" -l rename -d 'Take another name if the name exists: `report (1).pdf`'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand recv" -l json -d 'Report each event as a line of JSON on standard output'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand recv" -s q -l quiet -d 'Print only the link or the path of what was received, and errors'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand recv" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand doctor" -l token-file -d 'File with the create token of the relay, if it needs one' -r -F
complete -c rendezvous -n "__fish_rendezvous_using_subcommand doctor" -l wait -d 'How long a request waits, to find out whether it is cut' -r
complete -c rendezvous -n "__fish_rendezvous_using_subcommand doctor" -l json -d 'Report as one JSON object'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand man" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand help; and not __fish_seen_subcommand_from serve send recv doctor completions man help" -f -a "serve" -d 'Start the server'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand help; and not __fish_seen_subcommand_from serve send recv doctor completions man help" -f -a "send" -d 'Send files, a directory or a pipe, end to end encrypted'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand help; and not __fish_seen_subcommand_from serve send recv doctor completions man help" -f -a "recv" -d 'Receive what a link offers'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand help; and not __fish_seen_subcommand_from serve send recv doctor completions man help" -f -a "doctor" -d 'Find out what stands between you and a relay'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand help; and not __fish_seen_subcommand_from serve send recv doctor completions man help" -f -a "completions" -d 'Print the completions of a shell'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand help; and not __fish_seen_subcommand_from serve send recv doctor completions man help" -f -a "man" -d 'Print a page for man(1)'
complete -c rendezvous -n "__fish_rendezvous_using_subcommand help; and not __fish_seen_subcommand_from serve send recv doctor completions man help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
