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

/// The bytes of a chunk, and how many of them are data behind the smallest head.
const CHUNK: usize = 65536;

fn first_data() -> usize {
    CHUNK - framed(&Head::Bye).len()
}

fn data_of(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

/// Reads all data of an opened message, up to the end or the first failure.
fn all_of<R: Read>(mut data: Data<R>) -> (Vec<u8>, io::Result<()>) {
    let mut all = Vec::new();
    loop {
        match data.next() {
            Ok(Some(bytes)) => all.extend(bytes),
            Ok(None) => return (all, Ok(())),
            Err(error) => return (all, Err(error)),
        }
    }
}

#[test]
fn segments_are_messages_of_age_at_every_border_of_its_chunks() {
    let identity = Identity::generate();
    let recipient = identity.0.to_public();
    // With more than 256 chunks, the second byte of their number counts.
    for chunks in (0..6).chain([257]) {
        for length in
            [0, 1, CHUNK - 1].map(|more| (first_data() - 1 + more).saturating_sub(CHUNK) + chunks * CHUNK)
        {
            let data = data_of(length);
            let ours = sealed(&identity.recipient(), &Head::Bye, &data).unwrap();
            let plaintext = [framed(&Head::Bye), data.clone()].concat();
            assert_eq!(age::decrypt(&identity.0, &ours).unwrap(), plaintext, "{length} bytes");
            let theirs = age::encrypt(&recipient, &plaintext).unwrap();
            for message in [&ours, &theirs] {
                let (head, opened) = identity.open(&message[..]).unwrap();
                assert_eq!(head, Head::Bye);
                let (opened, end) = all_of(opened);
                assert!(opened == data && end.is_ok(), "{length} bytes: {} opened, {end:?}", opened.len());
            }
        }
    }
}

#[test]
fn the_length_of_a_segment_follows_from_its_plaintext() {
    let recipient = Identity::generate().recipient();
    for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 4 * CHUNK, 4 * CHUNK + 1, 9 * CHUNK] {
        let mut total = 0;
        let count = |block: Vec<u8>| {
            total += block.len() as u64;
            Ok(())
        };
        let mut sealer = seal(&recipient, count).unwrap();
        let announced = sealer.sealed_length(length as u64);
        sealer.write(&vec![7; length]).unwrap();
        sealer.finish().unwrap();
        assert_eq!(total, announced, "{length} bytes");
    }
}

#[test]
fn from_a_cut_segment_come_the_authenticated_chunks_and_no_more() {
    let identity = Identity::generate();
    let data = data_of(800_000);
    let whole = sealed(&identity.recipient(), &Head::Bye, &data).unwrap();
    let header = whole.len() - (data.len() + framed(&Head::Bye).len() + 13 * 16);
    for (cut, expected) in [
        (whole.len(), data.len()),
        (whole.len() - 1, 11 * CHUNK + first_data()),
        // Exactly between chunks, where a cut could look like the end.
        (header + 3 * (CHUNK + 16), 2 * CHUNK + first_data()),
        (70_000, first_data()),
    ] {
        let (head, opened) = identity.open(&whole[..cut]).unwrap();
        assert_eq!(head, Head::Bye);
        let (opened, end) = all_of(opened);
        assert_eq!(end.is_ok(), cut == whole.len(), "cut at {cut}");
        assert!(opened == data[..expected], "cut at {cut}: {} bytes", opened.len());
    }
}

#[test]
fn chunks_that_are_moved_or_follow_the_last_one_are_refused() {
    let identity = Identity::generate();
    let data = data_of(4 * CHUNK);
    let whole = sealed(&identity.recipient(), &Head::Bye, &data).unwrap();
    let header = whole.len() - (data.len() + framed(&Head::Bye).len() + 5 * 16);
    let chunk = |number: usize| {
        &whole[header + number * (CHUNK + 16)..whole.len().min(header + (number + 1) * (CHUNK + 16))]
    };
    let forged = |chunks: &[usize]| {
        let chunks: Vec<u8> = chunks.iter().flat_map(|&number| chunk(number)).copied().collect();
        [&whole[..header], &chunks].concat()
    };
    for (chunks, whole_ones) in
        [(&[0, 2, 1, 3, 4][..], 1), (&[0, 1, 1, 2, 3, 4], 2), (&[0, 1, 3, 4], 2), (&[0, 1, 2, 3, 4, 4], 4)]
    {
        let forged = forged(chunks);
        let (opened, end) = all_of(identity.open(&forged[..]).unwrap().1);
        assert!(end.is_err(), "{chunks:?}");
        assert_eq!(opened.len(), (whole_ones - 1) * CHUNK + first_data(), "{chunks:?}");
    }
}

/// Seals these chunks, of which the flags tell the last, whether that may be so or not.
fn forged(identity: &Identity, chunks: &[(&[u8], bool)]) -> Vec<u8> {
    let (mut message, mut key) = header::make(&identity.0.to_public()).unwrap();
    for &(chunk, is_last) in chunks {
        let mut chunk = chunk.to_vec();
        let tag = key.seal(&mut chunk, is_last).unwrap();
        message.extend(chunk);
        message.extend(tag);
    }
    message
}

#[test]
fn the_last_chunk_must_be_the_only_short_one_and_have_data_and_nothing_behind_it() {
    let identity = Identity::generate();
    let mut full = framed(&Head::Bye);
    full.resize(CHUNK, 7);
    let (full, short, empty) = (&full[..], &full[..CHUNK - 1], &[][..]);
    let behind = forged(&identity, &[(full, true), (b"x", true)]);
    let one_byte_behind = [&forged(&identity, &[(full, true)])[..], b"x"].concat();
    for (name, message, chunks) in [
        ("an empty last one", forged(&identity, &[(full, false), (empty, true)]), 1),
        ("a short one that is not the last", forged(&identity, &[(full, false), (short, false)]), 1),
        ("one without an end", forged(&identity, &[(full, false), (full, false)]), 2),
        ("another behind the last", behind, 1),
        ("a byte behind the last", one_byte_behind, 1),
    ] {
        let (opened, end) = all_of(identity.open(&message[..]).unwrap().1);
        assert!(end.is_err(), "{name}");
        assert_eq!(opened.len(), (chunks - 1) * CHUNK + first_data(), "{name}");
    }
}

#[test]
fn a_sealer_holds_no_more_than_a_block() {
    let mut blocks = Vec::new();
    let output = |block: Vec<u8>| {
        blocks.push(block.len());
        Ok(())
    };
    let mut sealer = seal(&Identity::generate().recipient(), output).unwrap();
    let header = usize::try_from(sealer.sealed_length(0)).unwrap() - 16;
    for _ in 0..10 {
        sealer.write(&vec![7; 100_000]).unwrap();
    }
    sealer.finish().unwrap();
    let block = 4 * (CHUNK + 16);
    assert_eq!(blocks, [header + block, block, block, 1_000_000 % CHUNK + 16 + 3 * (CHUNK + 16)]);
}

#[test]
fn a_flipped_bit_ends_a_segment_before_its_chunk() {
    let identity = Identity::generate();
    let mut forged = sealed(&identity.recipient(), &Head::Bye, &vec![1; 100_000]).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    let (opened, end) = all_of(identity.open(&forged[..]).unwrap().1);
    assert!(end.is_err());
    assert_eq!(opened.len(), first_data());
    assert!(matches!(Identity::generate().open(&forged[..]), Err(OpenError::Sealed)));
    // The header ends with its MAC.
    let mac = forged.windows(5).position(|window| window == b"\n--- ").unwrap() + 5;
    forged[mac] = if forged[mac] == b'A' { b'B' } else { b'A' };
    assert!(matches!(identity.open(&forged[..]), Err(OpenError::Sealed)));
}

#[test]
fn an_endless_header_is_refused_with_bounded_memory() {
    let endless = "age-encryption.org/v1\n".to_owned() + &"-> grease\n\n".repeat(10_000);
    assert!(matches!(Identity::generate().open(endless.as_bytes()), Err(OpenError::Header)));
    let long_line = "a".repeat(100_000);
    assert!(matches!(Identity::generate().open(long_line.as_bytes()), Err(OpenError::Header)));
}

#[test]
fn a_head_may_have_16_kib_and_not_more() {
    let identity = Identity::generate();
    let head = Head::Bye.to_json();
    let padding = |length: usize| vec![b' '; length - head.len()];
    for (length, announced, is_good) in
        [(16_384, 16_384, true), (16_385, 16_385, false), (20_000, u32::MAX, false)]
    {
        let plaintext = [&announced.to_be_bytes()[..], &head, &padding(length)].concat();
        let sealed = age::encrypt(&identity.0.to_public(), &plaintext).unwrap();
        let opened = identity.open(&sealed[..]).map(|(head, _)| head);
        if is_good {
            assert_eq!(opened.unwrap(), Head::Bye);
        } else {
            assert!(matches!(opened, Err(OpenError::Content(InvalidMessage::Json))), "{announced}");
        }
    }
}
