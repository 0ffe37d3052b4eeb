//! Reading the console as an operator does: prompts, their status, and the text between them.
//!
//! The shell's prompt is `dom0> ` after a success and `dom0 [N]> ` after a failure with status N; see [`Reply::status`].

/// What a command gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// 0 for success, 1 for a failure, 2 for wrong usage or an unknown command.
    pub status: u32,
    /// What was printed between the command's echo and the next prompt.
    pub text: String,
}

/// The text of terminal output: escape sequences taken out, lines rewritten by carriage return or backspace as they end up.
pub fn text(bytes: &[u8]) -> String {
    let decoded = String::from_utf8_lossy(bytes);
    let mut done = String::new();
    let mut line: Vec<char> = Vec::new();
    let mut column = 0usize;
    let mut chars = decoded.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => {
                done.extend(line.drain(..));
                done.push('\n');
                column = 0;
            }
            '\r' => column = 0,
            '\x08' => column = column.saturating_sub(1),
            '\x1b' => control_sequence(&mut chars, &mut line, &mut column),
            c if c.is_control() && c != '\t' => {}
            c => {
                line.resize(line.len().max(column + 1), ' ');
                line[column] = c;
                column += 1;
            }
        }
    }
    done.extend(line);
    done
}

/// Carries out the sequences that line editors use (ECMA-48: CUF, CUB, CHA, EL, ED); others do nothing.
fn control_sequence(chars: &mut std::iter::Peekable<std::str::Chars>, line: &mut Vec<char>, column: &mut usize) {
    if chars.next_if_eq(&'[').is_none() {
        chars.next();
        return;
    }
    let mut parameter = String::new();
    while let Some(c) = chars.next_if(|c| matches!(c, ' '..='?')) {
        parameter.push(c);
    }
    let number: Option<usize> = parameter.parse().ok();
    match chars.next() {
        Some('K' | 'J') if number.unwrap_or(0) == 0 => line.truncate(*column),
        Some('K' | 'J') if number == Some(2) => line.clear(),
        Some('C') => *column += number.unwrap_or(1).clamp(1, 200),
        Some('D') => *column = column.saturating_sub(number.unwrap_or(1).max(1)),
        Some('G') => *column = number.unwrap_or(1).saturating_sub(1).min(500),
        _ => {}
    }
}

/// Bytes of `output` without an escape sequence at its end that may go on: what begins in the middle of one looks like text.
pub fn whole(output: &[u8]) -> usize {
    let Some(escape) = output.iter().rposition(|&byte| byte == 0x1b) else { return output.len() };
    let goes_on = match &output[escape + 1..] {
        [] => true,
        [b'[', parameters @ ..] => parameters.iter().all(|byte| matches!(byte, b' '..=b'?')),
        _ => false,
    };
    if goes_on { escape } else { output.len() }
}

/// If `output` ends in a prompt: the status it shows, and the text before it.
pub fn at_prompt(output: &[u8]) -> Option<(u32, String)> {
    // Cheap test first: this is asked again after every piece of output.
    if !output.ends_with(b"> ") && !output.ends_with(b"m") && !output.ends_with(b"K") {
        return None;
    }
    let mut text = text(output);
    let start = text.rfind('\n').map_or(0, |newline| newline + 1);
    let status = status(&text[start..])?;
    text.truncate(start);
    Some((status, text))
}

/// The status that a prompt shows; `None` if `line` is no prompt.
fn status(line: &str) -> Option<u32> {
    match line.strip_prefix("dom0")?.strip_suffix("> ")? {
        "" => Some(0),
        status => status.strip_prefix(" [")?.strip_suffix(']')?.parse().ok(),
    }
}

/// If the output since `command` was typed is complete, the reply: what follows the line that echoes the command. Something
/// that happens by itself may be shown, and the prompt again, before the shell has read what was typed.
pub fn reply(output: &[u8], command: &str) -> Option<Reply> {
    let (status, text) = at_prompt(output)?;
    let mut lines = text.split_inclusive('\n');
    lines.by_ref().find(|line| line.ends_with('\n') && line.trim_end().ends_with(command.trim_end()))?;
    Some(Reply { status, text: lines.collect() })
}

/// The commands of a line such as `list; info; poweroff`, as the shell would split it: not inside quotes.
pub fn split_commands(line: &str) -> Vec<String> {
    let mut commands = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (c, quote) {
            (';' | '\n', None) => {
                commands.push(String::new());
                continue;
            }
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            _ => {}
        }
        if let Some(last) = commands.last_mut() {
            last.push(c);
        }
    }
    let commands = commands.iter().map(|command| command.trim().to_string());
    commands.filter(|command| !command.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_what_stands_between_echo_and_prompt() {
        let output = b"list\r\nname  id\r\ndom0  0\r\ndom0> ";
        assert_eq!(reply(output, "list"), Some(Reply { status: 0, text: "name  id\ndom0  0\n".into() }));
        assert_eq!(reply(b"x\r\nno such command: x\r\ndom0 [2]> ", "x").unwrap().status, 2);
        assert_eq!(reply(b"true\r\ndom0> ", "true ").unwrap().text, "");
    }

    #[test]
    fn a_reply_is_not_complete_before_the_prompt() {
        assert_eq!(reply(b"list", "list"), None);
        assert_eq!(reply(b"\r\x1b[Kdom0> ", "list"), None, "the editor redraws its line while the command is typed");
        assert_eq!(reply(b"list\r\nname\r\ndom0", "list"), None);
        assert_eq!(reply(b"list\r\ntext dom0> ", "list"), None, "a prompt starts its line");
        assert_eq!(reply(b"list\r\ndom0 [x]> ", "list"), None);
    }

    #[test]
    fn what_happens_by_itself_is_no_reply() {
        let notice = b"\r\x1b[Kspin has died\r\ndom0> ";
        assert_eq!(reply(notice, "list"), None);
        let both = [&notice[..], b"list\r\nname\r\ndom0> "].concat();
        assert_eq!(reply(&both, "list").unwrap().text, "name\n");
    }

    #[test]
    fn colours_and_rewritten_lines_read_as_they_end_up() {
        assert_eq!(text(b"\x1b[1mbold\x1b[0m\r\n"), "bold\n");
        assert_eq!(text(b"abc\x08\x08X\r\n"), "aXc\n");
        assert_eq!(text(b"first\r\x1b[Knew"), "new");
        assert_eq!(text(b"ab\x1b[5Gc"), "ab  c");
        assert_eq!(at_prompt(b"boot\r\n\x1b[32mdom0> \x1b[0m"), Some((0, "boot\n".into())));
    }

    #[test]
    fn output_is_not_cut_inside_an_escape_sequence() {
        let output = b"~ # \x1b[6n";
        for (end, whole) in [(4, 4), (5, 4), (6, 4), (7, 4), (8, 8)] {
            assert_eq!(super::whole(&output[..end]), whole, "{end}");
        }
        assert_eq!(super::whole(b"\x1b[1mbold\x1bcx"), 11);
    }

    #[test]
    fn any_bytes_are_read_without_harm() {
        assert_eq!(text(b"\x1b"), "");
        assert_eq!(text(b"\x1b["), "");
        assert_eq!(text(b"\x1b[99999999999999999999Cx\xff"), " x\u{fffd}");
    }

    #[test]
    fn commands_are_split_outside_quotes() {
        assert_eq!(split_commands("list; info ;;poweroff\n"), ["list", "info", "poweroff"]);
        assert_eq!(split_commands("create a 'x=1;2'; list"), ["create a 'x=1;2'", "list"]);
        assert!(split_commands(" ; ").is_empty());
    }
}
