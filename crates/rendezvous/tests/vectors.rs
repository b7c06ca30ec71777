//! The test vectors of docs/send-and-receive.md, checked with nothing but age and HKDF: what another client would do.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails loudly")]

use std::io::Read;

use age::secrecy::SecretString;
use age::{Decryptor, Identity};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../../docs/send-and-receive.md");
const CROCKFORD: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const RFC_4648: &str = "abcdefghijklmnopqrstuvwxyz234567";

/// The value behind a name in the block of vectors; lines that are indented go on.
fn vector(name: &str) -> String {
    let (_, section) = PAGE.split_once("### Test vectors").unwrap();
    let block = section.split("```").nth(1).unwrap();
    let lines = block.lines().skip_while(|line| !line.starts_with(&format!("{name} =")));
    let mut lines = lines.take_while({
        let mut is_first = true;
        move |line| std::mem::take(&mut is_first) || line.starts_with(' ')
    });
    let first = lines.next().unwrap_or_else(|| panic!("no vector {name}")).split_once('=').unwrap().1.trim();
    first.to_owned() + &lines.map(str::trim).collect::<String>()
}

/// The bits of the bytes, 5 at a time, in the characters of an alphabet.
fn base32(bytes: &[u8], alphabet: &str) -> String {
    let bits: Vec<_> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let digits = bits.chunks(5).map(|bits| {
        let digit = bits.iter().fold(0, |digit, bit| digit << 1 | bit) << (5 - bits.len());
        alphabet.as_bytes()[usize::from(digit)] as char
    });
    digits.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from_digit(digit.into(), 16).unwrap())
        .collect()
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("not base64: {}", byte as char),
    };
    let digits: Vec<_> = text.trim_end_matches('=').bytes().map(digit).collect();
    let bytes = digits.chunks(4).flat_map(|digits| {
        let bits = digits.iter().enumerate().fold(0, |bits, (at, digit)| bits | digit << (18 - 6 * at));
        bits.to_be_bytes()[1..digits.len()].to_vec()
    });
    bytes.collect()
}

fn hkdf(secret: &[u8], info: &str, length: usize) -> Vec<u8> {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let key = Salt::new(HKDF_SHA256, b"http-rendezvous transfer 1").extract(secret);
    let mut bytes = vec![0; length];
    key.expand(&[info.as_bytes()], Length(length)).unwrap().fill(&mut bytes).unwrap();
    bytes
}

fn decrypted(file: &[u8], identity: &dyn Identity) -> Vec<u8> {
    let mut content = Vec::new();
    let decryptor = Decryptor::new(file).unwrap();
    decryptor.decrypt(std::iter::once(identity)).unwrap().read_to_end(&mut content).unwrap();
    content
}

#[test]
fn a_secret_gives_the_link_the_path_and_the_passphrase_of_the_page() {
    let secret: Vec<u8> = (0..16).collect();
    assert_eq!(vector("secret"), hex(&secret));
    assert_eq!(vector("link"), format!("https://relay.example/r#{}", base32(&secret, CROCKFORD)));
    assert_eq!(vector("P"), base32(&hkdf(&secret, "path", 16), RFC_4648));
    assert_eq!(vector("passphrase"), base32(&hkdf(&secret, "key ctl", 32), RFC_4648));
}

#[test]
fn the_passphrase_opens_the_control_message_of_the_page() {
    let mut identity = age::scrypt::Identity::new(SecretString::from(vector("passphrase")));
    identity.set_max_work_factor(10);
    let file = base64(&vector("control"));
    assert!(file.starts_with(b"age-encryption.org/v1\n-> scrypt "));
    let message: Value = serde_json::from_slice(&decrypted(&file, &identity)).unwrap();
    let expected = json!({
        "v": 1, "type": "ask", "receiver": vector("receiver"), "n": 1, "attempt": vector("attempt"), "offset": 0,
        "recipient": vector("recipient"),
    });
    assert_eq!(message, expected);
}

#[test]
fn the_identity_of_the_receiver_opens_the_segment_of_the_page() {
    let identity: age::x25519::Identity = vector("identity").parse().unwrap();
    assert_eq!(identity.to_public().to_string(), vector("recipient"));
    let content = decrypted(&base64(&vector("segment")), &identity);
    let (length, rest) = content.split_first_chunk::<4>().unwrap();
    let (object, data) = rest.split_at(u32::from_be_bytes(*length) as usize);
    assert_eq!(data, b"hello\n");
    let sha256 = hex(digest(&SHA256, data).as_ref());
    let expected = json!({
        "v": 1, "transfer": vector("transfer"), "attempt": vector("attempt"), "segment": 0, "offset": 0,
        "kind": "file", "name": "hello.txt", "size": 6, "mtime": 1_700_000_000, "mode": 420,
        "end": true, "bytes": 6, "sha256": sha256,
    });
    assert_eq!(serde_json::from_slice::<Value>(object).unwrap(), expected);
}
