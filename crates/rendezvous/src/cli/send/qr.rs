//! A QR code for a terminal. Pure.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// Returns the QR code of a text, two modules in each character; `None` if the text is too long for one.
///
/// Light modules are drawn and dark ones are not, because most terminals are dark. Readers of QR codes accept either.
pub(super) fn code(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    Some(code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_a_link_fits_in_a_terminal_of_80_by_24() {
        let code = code("https://relay.example/r#000G40R40M30E209185GR38E1W").unwrap();
        assert!(code.lines().count() <= 22, "{code}");
        assert!(code.lines().all(|line| line.chars().count() <= 44), "{code}");
        // The quiet zone is drawn, since it is light.
        assert!(code.lines().next().unwrap().chars().all(|module| module == '█'), "{code}");
    }

    #[test]
    fn a_text_that_is_too_long_has_no_code() {
        assert_eq!(code(&"x".repeat(3000)), None);
    }
}
