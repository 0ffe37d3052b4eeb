//! Splits what was typed into commands and words.

use alloc::string::String;
use alloc::vec::Vec;

/// Splits a line at `;` outside of quotes.
pub fn commands(line: &str) -> Vec<String> {
    let mut commands = alloc::vec![String::new()];
    let mut state = Quote::None;
    for c in line.chars() {
        let inside = state != Quote::None;
        state = state.after(c);
        match commands.last_mut() {
            Some(last) if c != ';' || inside => last.push(c),
            _ => commands.push(String::new()),
        }
    }
    commands.retain(|command| !command.trim().is_empty());
    commands
}

/// Splits a command into words: at blanks, with `'..'`, `".."` and `\x` as in a shell. `None` if a quote is left open.
pub fn words(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut state = Quote::None;
    for c in command.chars() {
        let before = state;
        state = state.after(c);
        let literal = match (before, c) {
            (Quote::Escape | Quote::EscapeInDouble, _) => true,
            (Quote::Single, '\'') | (Quote::Double, '"' | '\\') => false,
            (Quote::Single | Quote::Double, _) => true,
            (Quote::None, '\'' | '"' | '\\') => {
                word.get_or_insert_default();
                false
            }
            (Quote::None, c) if c.is_whitespace() => {
                words.extend(word.take());
                false
            }
            (Quote::None, _) => true,
        };
        if literal {
            word.get_or_insert_default().push(c);
        }
    }
    words.extend(word);
    (state == Quote::None).then_some(words)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    None,
    Single,
    Double,
    Escape,
    EscapeInDouble,
}

impl Quote {
    fn after(self, c: char) -> Quote {
        match (self, c) {
            (Quote::None, '\'') => Quote::Single,
            (Quote::None, '"') => Quote::Double,
            (Quote::None, '\\') => Quote::Escape,
            (Quote::Single, '\'') | (Quote::Double, '"') | (Quote::Escape, _) => Quote::None,
            (Quote::Double, '\\') => Quote::EscapeInDouble,
            (Quote::EscapeInDouble, _) => Quote::Double,
            (state, _) => state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands_and_words_with_quotes() {
        assert_eq!(commands("list; info ;; poweroff"), ["list", " info ", " poweroff"]);
        assert_eq!(commands("create a 'cmdline=x;y' ; list"), ["create a 'cmdline=x;y' ", " list"]);
        assert_eq!(words("create  a 'b c' \"d\\\"e\" f\\ g ''").unwrap(), ["create", "a", "b c", "d\"e", "f g", ""]);
        assert_eq!(words("  ").unwrap(), Vec::<String>::new());
        assert_eq!(words("echo 'x"), None);
        assert_eq!(words("x\\"), None);
    }

    proptest! {
        #[test]
        fn quoted_words_come_back(list in prop::collection::vec("[^']{0,12}", 0..6)) {
            let quoted: Vec<String> = list.iter().map(|word| std::format!("'{word}'")).collect();
            prop_assert_eq!(words(&quoted.join(" ")), Some(list));
        }
    }
}
