# One transfer by LWP: perl transfer.pl ROLE API URL FILE FRAMING
# Exits with 0 if the API reports success. The CA is in PERL_LWP_SSL_CA_FILE.

use strict;
use warnings;
use HTTP::Request;
use LWP::UserAgent;

my ($role, $api, $url, $file, $framing) = @ARGV;
my $ua = LWP::UserAgent->new;

sub blocks {
    open(my $body, '<:raw', $file) or die "$file: $!";
    return sub { read($body, my $block, 65536); return $block };
}

if ($role eq 'receive') {
    if ($api eq 'is_success') {
        my $response = $ua->get($url, ':content_file' => $file);
        die $response->status_line, "\n" unless $response->is_success;
    } else {
        # snippet: is_success, and what it leaves out
        my $response = $ua->get($url, ':content_file' => $file);
        die $response->status_line, "\n" unless $response->is_success;
        die 'cut: ', $response->header('X-Died'), "\n" if $response->header('X-Died');
        my $length = $response->header('Content-Length');
        die "cut: too short\n" if defined $length && -s $file != $length;
        # snippet end
    }
} else {
    my $request = HTTP::Request->new(PUT => $url, ['Content-Type' => 'application/octet-stream']);
    $request->content(blocks());
    $request->header('Content-Length' => -s $file) if $framing eq 'length';
    my $response = $ua->request($request);
    die $response->status_line, "\n" unless $response->is_success;
}
