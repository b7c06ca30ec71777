//! A terminal as the place where data goes: control characters are left out, because escape sequences could make it do anything.

use std::io::{self, Write};

use crate::cli::transfer::text::is_harmful;

/// The longest character in UTF-8, in bytes.
const LONGEST: usize = 4;

/// Writes text to a terminal: without control characters but line ends and tabs, and with `_` for what is not UTF-8.
pub(super) struct Terminal<W> {
    terminal: W,
    /// The beginning of a character whose rest has not come yet; shorter than [`LONGEST`].
    begun: Vec<u8>,
}

impl<W: Write> Terminal<W> {
    pub(super) fn new(terminal: W) -> Self {
        Self { terminal, begun: Vec::with_capacity(LONGEST) }
    }
}

impl<W: Write> Write for Terminal<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut input = std::mem::take(&mut self.begun);
        input.extend_from_slice(bytes);
        let mut shown = String::with_capacity(input.len());
        let mut chunks = input.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            let letters = chunk.valid().chars();
            shown.extend(letters.map(|letter| match letter {
                '\n' | '\t' => letter,
                _ if is_harmful(letter) => '_',
                _ => letter,
            }));
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && is_begun(invalid) {
                self.begun.extend_from_slice(invalid);
            } else if !invalid.is_empty() {
                shown.push('_');
            }
        }
        self.terminal.write_all(shown.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.terminal.flush()
    }
}

/// Whether more bytes could complete these to a character.
fn is_begun(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pieces: &[&[u8]]) -> String {
        let mut out = Vec::new();
        let mut terminal = Terminal::new(&mut out);
        for piece in pieces {
            terminal.write_all(piece).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal_and_text_does() {
        assert_eq!(shown(&["a\tb\nGrüße 🎉".as_bytes()]), "a\tb\nGrüße 🎉");
        assert_eq!(shown(&[b"\x1b[2J\x07\r\n"]), "_[2J__\n");
        assert_eq!(shown(&["\u{9b}31m\u{202e}".as_bytes()]), "_31m_");
        assert_eq!(shown(&[b"\xff\x9b\x00x"]), "___x");
    }

    #[test]
    fn a_character_may_be_split_anywhere() {
        let text = "ä🎉\u{9b}€".as_bytes();
        for at in 0..=text.len() {
            let (one, other) = text.split_at(at);
            assert_eq!(shown(&[one, other]), "ä🎉_€", "{at}");
        }
        let bytes: Vec<_> = text.chunks(1).collect();
        assert_eq!(shown(&bytes), "ä🎉_€");
    }
}
