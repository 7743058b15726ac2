//! Makes text from others safe to show: clean, short, and quoted line by line. No part of the result looks like words
//! of the user, of the program or of another peer.
//!
//! **Invariant:** text from others reaches a model or a terminal only through this file. The result contains no
//! invisible character, except the variation selector of an emoji. The only line breaks in it are those that this file
//! adds.

use super::limits;

/// Maximum length of a name, in characters.
pub const NAME_MAX: usize = 40;

/// Maximum length of a name on the screen, in characters. The name of a linked peer includes the name of its
/// machine.
const SHOWN_NAME_MAX: usize = 100;

/// The length of `\uXXXX`, in bytes.
const ESCAPE_LENGTH: usize = 6;

/// What the function `line` does with a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    /// The character is white space other than a plain space. It becomes a plain space.
    Space,
    /// The character could steer a terminal. It becomes a visible sign, so that the reader sees that something was
    /// there.
    Replace,
    /// The character is invisible. It is removed.
    Remove,
}

/// Whether a person or a program might treat this character as the end of a line.
pub fn is_line_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Whether a character is visible and unambiguous, that is, not a control, format, private-use or invisible
/// character.
pub fn is_visible(c: char) -> bool {
    fate(c) == Fate::Keep
}

fn fate(c: char) -> Fate {
    match c {
        ' '..='~' => Fate::Keep,
        '\n' | '\t' => Fate::Space,
        '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{2800}' => Fate::Space,
        c if c.is_control() => Fate::Replace,
        // Characters that change the direction of text, and separators of lines and paragraphs.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => Fate::Replace,
        // Private-use characters, interlinear annotations and noncharacters.
        '\u{e000}'..='\u{f8ff}' | '\u{fff9}'..='\u{fffb}' | '\u{fdd0}'..='\u{fdef}' => Fate::Replace,
        '\u{f0000}'..='\u{10ffff}' => Fate::Replace,
        c if c as u32 & 0xfffe == 0xfffe => Fate::Replace,
        // Zero-width and other invisible characters, Hangul fillers, variation selectors, musical controls, tags.
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' => Fate::Remove,
        '\u{8e2}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' => Fate::Remove,
        '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' => Fate::Remove,
        '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{110bd}' | '\u{110cd}' => Fate::Remove,
        '\u{13430}'..='\u{1345f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' => Fate::Remove,
        '\u{e0000}'..='\u{e0fff}' => Fate::Remove,
        _ => Fate::Keep,
    }
}

/// Whether the variation selector turns this character into an emoji.
fn takes_picture_selector(c: char) -> bool {
    matches!(c, '\u{203c}'..='\u{3299}' | '\u{1f000}'..='\u{1faff}')
}

/// Turns a string into one line. Characters that steer a terminal are replaced, and invisible characters are removed.
pub fn line(text: &str) -> String {
    if is_plain_ascii(text) {
        return text.to_owned();
    }
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match fate(c) {
            Fate::Keep => clean.push(c),
            Fate::Space => clean.push(' '),
            Fate::Replace => clean.push(char::REPLACEMENT_CHARACTER),
            Fate::Remove if c == '\u{fe0f}' && clean.ends_with(takes_picture_selector) => clean.push(c),
            Fate::Remove => {}
        }
    }
    clean
}

/// Splits a string into clean lines. Any kind of line break ends a line.
pub fn lines(text: &str) -> Vec<String> {
    if is_plain_ascii(text) {
        return vec![text.to_owned()];
    }
    let text = text.replace("\r\n", "\n");
    let text = text.strip_suffix(is_line_break).unwrap_or(&text);
    text.split(is_line_break).map(line).collect()
}

/// Cuts a string after `max` characters and puts `> ` before each line. Also returns how many bytes of the string are
/// quoted.
pub fn quoted_lines(text: &str, max: usize) -> (String, usize) {
    let shown = first_chars(text, max);
    (["> ", &lines(shown).join("\n> ")].concat(), shown.len())
}

/// Puts a string in double quotes on one line, and cuts it after `max` characters. No quote inside the string can end
/// the quotation.
pub fn quoted(text: &str, max: usize) -> String {
    let shown = first_chars(text, max);
    let cut = if shown.len() < text.len() { "…" } else { "" };
    format!("\"{}{cut}\"", line(shown).replace(looks_like_quote, "'"))
}

/// The first `max` characters of a string. The rest of the string is not read.
fn first_chars(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    text.char_indices().nth(max).map_or(text, |(end, _)| &text[..end])
}

/// Whether a string contains only printable ASCII characters, which all stay as they are. Most strings pass this fast
/// check.
fn is_plain_ascii(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Whether a reader could mistake a character for a double quote.
fn looks_like_quote(c: char) -> bool {
    matches!(c, '"' | '\u{2ba}' | '\u{2dd}' | '\u{2ee}' | '\u{201c}'..='\u{201f}' | '\u{2033}' | '\u{2036}')
        || matches!(c, '\u{275d}' | '\u{275e}' | '\u{2760}' | '\u{301d}'..='\u{301f}' | '\u{ff02}' | '\u{1f676}'..='\u{1f678}')
}

/// Whether a name may contain this character.
fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() && is_visible(c) || matches!(c, '.' | '_' | '-')
}

/// Checks a name that a peer wants to have.
///
/// # Errors
/// If the name is not allowed; the error says what is allowed.
pub fn check_name(name: &str) -> Result<(), String> {
    let n = name.chars().count();
    if n > NAME_MAX {
        return Err(format!("expected at most {NAME_MAX} characters, got {n}"));
    }
    match name.chars().find(|c| !is_name_char(*c)) {
        Some(c) => Err(format!("expected only letters, digits, '.', '_' and '-', got {}", escaped_char(c))),
        None => Ok(()),
    }
}

/// Turns any name into one that [`check_name`] accepts. This function is for names whose owners can't be asked to
/// choose other names.
pub fn plain_name(name: &str) -> String {
    name.chars().map(|c| if is_name_char(c) { c } else { '-' }).take(NAME_MAX).collect()
}

/// A peer's name in the form that people and models see: one word. The name of a linked peer ends in `@` and the
/// name of its machine.
pub fn shown_name(name: &str) -> String {
    let is_short_ascii = name.len() <= SHOWN_NAME_MAX
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@:+".contains(&byte));
    if is_short_ascii {
        return name.to_owned();
    }
    let plain = |c: char| if is_name_char(c) || matches!(c, '@' | ':' | '+') { c } else { '-' };
    name.chars().map(plain).take(SHOWN_NAME_MAX).collect()
}

/// A group in the form that people and models see: one word, which begins with `#` only if the group is a channel.
pub fn shown_group(group: &str) -> String {
    match group.strip_prefix('#') {
        Some(channel) => format!("#{}", shown_name(channel)),
        None => shown_name(group),
    }
}

/// A path in the form that people and models see. The path is quoted if any of its characters could make it look
/// like a sentence.
pub fn shown_path(path: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() && is_visible(c) || "/._-+@~*?[]{}".contains(c);
    if path.chars().all(is_plain) { path.to_owned() } else { quoted(path, limits::PATH_MAX) }
}

/// Formats a character for an error message.
fn escaped_char(c: char) -> String {
    if is_visible(c) && c != ' ' { format!("'{c}'") } else { format!("U+{:04X}", c as u32) }
}

/// Escapes each invisible or ambiguous character of a JSON text as `\uXXXX`. A program reads the same value as before,
/// and a person or a model sees that the character is there.
pub fn visible_json(json: String) -> String {
    if is_plain_ascii(&json) || json.chars().all(is_visible) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() * 2);
    for c in json.chars() {
        if is_visible(c) {
            escaped.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| escaped.push_str(&format!("\\u{unit:04x}")));
        }
    }
    escaped
}

/// The length, in bytes, that a piece of JSON text has after [`visible_json`] has escaped it.
pub fn visible_length(json: &str) -> usize {
    if is_plain_ascii(json) { json.len() } else { json.chars().map(visible_char_length).sum() }
}

/// The length, in bytes, that a character of JSON text has after [`visible_json`] has escaped it.
pub fn visible_char_length(c: char) -> usize {
    if is_visible(c) { c.len_utf8() } else { ESCAPE_LENGTH * c.len_utf16() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Strings that delimit quoted text. Text from others may contain these strings in order to imitate or end a
    /// quotation.
    const FRAME: [&str; 4] = ["", "\"", "> ", "\n"];

    /// Texts that together contain all characters of Unicode, a few thousand in each text. Each character stands
    /// between two copies of one of the strings in `FRAME`.
    fn every_char_in(frame: &str) -> impl Iterator<Item = String> {
        // Unicode assigns no characters to the planes between these two ranges.
        let starts = (0..0x4_0000).chain(0xe_0000..=char::MAX as u32).step_by(0x1000);
        starts.map(move |start| {
            let chars = (start..start + 0x1000).filter_map(char::from_u32);
            chars.flat_map(|c| [frame.to_owned(), c.to_string(), frame.to_owned()]).collect()
        })
    }

    fn is_clean(text: &str) -> bool {
        text.chars().all(|c| is_visible(c) || c == '\u{fe0f}')
    }

    #[test]
    fn no_character_of_unicode_leaves_its_frame() {
        for frame in FRAME {
            for text in every_char_in(frame) {
                let word = quoted(&text, usize::MAX);
                assert!(is_clean(&word) && !word[1..word.len() - 1].contains(looks_like_quote), "{text:?}");
                let (block, _) = quoted_lines(&text, usize::MAX);
                assert!(block.split('\n').all(|line| line.starts_with("> ") && is_clean(line)), "{text:?}");
                assert!(!shown_name(&text).contains([' ', '"', '(', ',', '#']), "{text:?}");
                assert!(!shown_group(&text).contains([' ', '"', '(', ',']), "{text:?}");
                assert_eq!(check_name(&plain_name(&text)), Ok(()), "{text:?}");
            }
        }
    }

    #[test]
    fn json_keeps_its_meaning_and_shows_everything() {
        for text in every_char_in("\"\\") {
            let value = serde_json::json!({ "a": text });
            let json = visible_json(value.to_string());
            assert!(json.chars().all(is_visible), "{text:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), value);
        }
    }

    #[test]
    fn text_that_means_no_harm_stays_as_it_is() {
        for text in
            ["naïve café", "日本語のファイル", "שלום", "e\u{301}", "👍 ❤\u{fe0f}", "fn a<'b>() -> &'b str { \"x\" }"]
        {
            assert_eq!(line(text), text);
        }
        assert_eq!(quoted("say \"hi\"", 100), "\"say 'hi'\"");
        assert_eq!(quoted("abcdef", 3), "\"abc…\"");
        assert_eq!(quoted_lines("a\r\nb\u{2028}c\n", 100), ("> a\n> b\n> c".into(), 9));
        assert_eq!(quoted_lines("", 100), ("> ".into(), 0));
    }

    #[test]
    fn names_are_short_and_plain() {
        for name in ["claude-api", "a.b_c-2", "Jürgen", "日本", &"x".repeat(40)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["a b", "a\nb", "a\u{2028}", "a\u{200b}b", "a\u{3164}", "\"", "x@y", "a:b", &"x".repeat(41)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert_eq!(check_name("a b").unwrap_err(), "expected only letters, digits, '.', '_' and '-', got U+0020");
        assert_eq!(plain_name("my agent: \u{1b}[1m"), "my-agent---[1m".replace('[', "-"));
    }
}
