//! What opens, and what does not.

use super::*;
use crate::link::{Id, Secret};
use crate::messages::{Ask, Body};

fn message(recipient: String) -> Control {
    let ask = Ask { attempt: Id::random(), offset: 1 << 40, recipient, transfer: Some(Id::random()) };
    Control { receiver: Id::random(), n: 7, body: Body::Ask(ask) }
}

#[test]
fn a_control_message_opens_with_the_same_secret_only() {
    let seal = ControlSeal::new(&Keys::of(&Secret::random()));
    let sent = message(Identity::generate().recipient());
    let sealed = seal.seal(&sent).unwrap();
    assert_eq!(seal.open(&sealed).unwrap(), sent);
    let other = ControlSeal::new(&Keys::of(&Secret::random()));
    assert!(matches!(other.open(&sealed), Err(OpenError::Sealed)));
    let cut = &sealed[..sealed.len() - 1];
    assert!(matches!(seal.open(cut), Err(OpenError::Sealed)));
}

#[test]
fn another_header_is_refused_before_any_scrypt() {
    let seal = ControlSeal::new(&Keys::of(&Secret::random()));
    let sealed = seal.seal(&message(Identity::generate().recipient())).unwrap();
    let text_of = |sealed: &[u8]| String::from_utf8_lossy(sealed).into_owned();
    let header_end = text_of(&sealed).find("\n---").unwrap();
    let header = text_of(&sealed[..header_end]);
    let tail = &sealed[header_end..];
    let expensive = header.replace(" 10\n", " 22\n");
    let twice = format!("{header}{}", header.trim_start_matches("age-encryption.org/v1"));
    let wrapped = header.replace("scrypt ", "X25519 ");
    for forged in [expensive, twice, wrapped, header.replace("/v1", "/v2"), String::new()] {
        let forged = [forged.as_bytes(), tail].concat();
        assert!(matches!(seal.open(&forged), Err(OpenError::Header)), "{}", text_of(&forged));
    }
}

/// Seals data behind a head, and checks the announced length.
fn sealed(recipient: &str, head: &Head, data: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    let mut writer = seal(recipient, &mut header).unwrap();
    let framed = framed(head);
    writer.write_all(&framed).unwrap();
    writer.write_all(data).unwrap();
    writer.finish().unwrap();
    let payload = header.windows(5).position(|window| window == b"\n--- ").unwrap() + 5 + 43 + 1 + 16;
    let plaintext = (framed.len() + data.len()) as u64;
    assert_eq!(sealed_length(payload as u64, plaintext), header.len() as u64);
    header
}

#[test]
fn the_length_of_a_segment_follows_from_its_plaintext() {
    let recipient = Identity::generate().recipient();
    let framed = framed(&Head::Bye).len();
    for length in [0, 1, 65536 - framed - 1, 65536 - framed, 65536 - framed + 1, 131_072 - framed, 200_000] {
        sealed(&recipient, &Head::Bye, &vec![7; length]);
    }
}

#[test]
fn from_a_cut_segment_come_the_authenticated_chunks_and_no_more() {
    let identity = Identity::generate();
    let data: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let whole = sealed(&identity.recipient(), &Head::Bye, &data);
    let framed = framed(&Head::Bye).len();
    for (cut, expected) in
        [(whole.len(), data.len()), (whole.len() - 1, 12 * 65536 - framed), (70_000, 65536 - framed)]
    {
        let (head, mut reader) = identity.open(&whole[..cut]).unwrap();
        assert_eq!(head, Head::Bye);
        let mut opened = Vec::new();
        let result = reader.read_to_end(&mut opened);
        assert_eq!(result.is_ok(), cut == whole.len());
        assert_eq!(opened, data[..expected], "cut at {cut}");
    }
}

#[test]
fn a_flipped_bit_ends_a_segment_before_its_chunk() {
    let identity = Identity::generate();
    let mut forged = sealed(&identity.recipient(), &Head::Bye, &vec![1; 100_000]);
    *forged.last_mut().unwrap() ^= 1;
    let (_, mut reader) = identity.open(&forged[..]).unwrap();
    let mut opened = Vec::new();
    assert!(reader.read_to_end(&mut opened).is_err());
    assert_eq!(opened.len(), 65536 - framed(&Head::Bye).len());
    assert!(matches!(Identity::generate().open(&forged[..]), Err(OpenError::Sealed)));
}

#[test]
fn an_endless_header_is_refused_with_bounded_memory() {
    let endless = "age-encryption.org/v1\n".to_owned() + &"-> grease\n\n".repeat(10_000);
    assert!(matches!(Identity::generate().open(endless.as_bytes()), Err(OpenError::Header)));
    let long_line = "a".repeat(100_000);
    assert!(matches!(Identity::generate().open(long_line.as_bytes()), Err(OpenError::Header)));
}

#[test]
fn a_head_longer_than_16_kib_is_refused() {
    let identity = Identity::generate();
    let mut sealed = Vec::new();
    let mut writer = seal(&identity.recipient(), &mut sealed).unwrap();
    writer.write_all(&u32::MAX.to_be_bytes()).unwrap();
    writer.write_all(&vec![b' '; 20_000]).unwrap();
    writer.finish().unwrap();
    assert!(matches!(identity.open(&sealed[..]), Err(OpenError::Content(InvalidMessage::Json))));
}
