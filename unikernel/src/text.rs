//! Text of bounded length, without a heap.

use core::fmt::{Display, Result, Write};

/// Up to `N` bytes of text; what does not fit is dropped, at a character boundary.
#[derive(Clone, Debug)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
    cut: bool,
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Text::new()
    }
}

impl<const N: usize> Text<N> {
    /// Nothing yet.
    pub const fn new() -> Text<N> {
        Text { bytes: [0; N], length: 0, cut: false }
    }

    /// The bytes written so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, text: &str) -> Result {
        if self.cut {
            return Ok(());
        }
        let mut end = text.len().min(N - self.length);
        self.cut = end < text.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.bytes[self.length..self.length + end].copy_from_slice(&text.as_bytes()[..end]);
        self.length += end;
        Ok(())
    }
}

/// `value` as text, cut to what fits.
pub fn short<const N: usize>(value: impl Display) -> heapless::String<N> {
    let mut text = Text::<N>::new();
    // Writing into a `Text` cannot fail; a value whose formatting fails is cut there.
    let _ = write!(text, "{value}");
    core::str::from_utf8(text.as_bytes()).unwrap_or("?").try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_at_a_character() {
        let mut text = Text::<6>::new();
        write!(text, "a{}", "bcdéf".trim_end()).unwrap();
        assert_eq!(text.as_bytes(), "abcdé".as_bytes());
        write!(text, "g").unwrap();
        assert_eq!(text.as_bytes(), "abcdé".as_bytes());
        let mut text = Text::<2>::new();
        write!(text, "aé").unwrap();
        assert_eq!(text.as_bytes(), b"a");
    }
}
