<?php
// One transfer by PHP: php transfer.php ROLE API URL FILE FRAMING
// Exits with 0 if the API reports success. The CA is in CLIENTS_CA.

[, $role, $api, $url, $file, $framing] = $argv;
$ca = getenv('CLIENTS_CA');

function by_copy(string $url, string $file, string $ca): bool
{
    return copy($url, $file, stream_context_create(['ssl' => ['cafile' => $ca]]));
}

function by_curl(string $url, string $file, string $ca): bool
{
    // snippet: the curl extension
    $out = fopen($file, 'wb');
    $curl = curl_init($url);
    curl_setopt_array($curl, [CURLOPT_FILE => $out, CURLOPT_FAILONERROR => true, CURLOPT_CAINFO => $ca]);
    return curl_exec($curl); // false at a cut: curl_error() says why
    // snippet end
}

function put_by_stream(string $url, string $file, string $ca): bool
{
    $http = ['method' => 'PUT', 'content' => file_get_contents($file), 'header' => 'Content-Type: application/octet-stream'];
    return file_get_contents($url, false, stream_context_create(['http' => $http, 'ssl' => ['cafile' => $ca]])) !== false;
}

function put_by_curl(string $url, string $file, string $ca, string $framing): bool
{
    $curl = curl_init($url);
    $options = [CURLOPT_PUT => true, CURLOPT_INFILE => fopen($file, 'rb'), CURLOPT_FAILONERROR => true, CURLOPT_CAINFO => $ca];
    if ($framing === 'length') {
        $options[CURLOPT_INFILESIZE] = filesize($file);
    }
    curl_setopt_array($curl, $options);
    return curl_exec($curl) !== false;
}

$done = match ("$role $api") {
    'receive copy()' => by_copy($url, $file, $ca),
    'receive the curl extension' => by_curl($url, $file, $ca),
    'send file_get_contents()' => put_by_stream($url, $file, $ca),
    'send the curl extension' => put_by_curl($url, $file, $ca, $framing),
};
exit($done ? 0 : 1);
