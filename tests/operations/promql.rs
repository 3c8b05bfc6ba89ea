//! As much of PromQL as is needed to see which metrics, labels and functions a query names. Whether it is valid is promtool's to say.

use std::collections::BTreeSet;

/// What a query names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) selectors: Vec<Selector>,
    /// The labels of `by`, `on` and the like.
    pub(crate) groupings: BTreeSet<String>,
    pub(crate) functions: BTreeSet<String>,
    /// The labels that `label_replace` makes.
    pub(crate) made: BTreeSet<String>,
}

/// A metric with what is asked of its labels.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) metric: String,
    pub(crate) matchers: Vec<Matcher>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Matcher {
    pub(crate) label: String,
    pub(crate) operator: String,
    pub(crate) value: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Name(String),
    Text(String),
    Sign(char),
}

const GROUPINGS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const WORDS: [&str; 5] = ["and", "or", "unless", "offset", "bool"];

impl Query {
    pub(crate) fn read(text: &str) -> Self {
        let tokens = tokens(text);
        let mut query = Self::default();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            let Token::Name(name) = token else {
                // A range, or the parameters of a function.
                if *token == Token::Sign('[') {
                    at = after(&tokens, at, ']');
                }
                continue;
            };
            let next = tokens.get(at);
            if WORDS.contains(&name.as_str()) {
                continue;
            }
            if GROUPINGS.contains(&name.as_str()) {
                if next == Some(&Token::Sign('(')) {
                    let end = after(&tokens, at, ')');
                    query.groupings.extend(names(&tokens[at..end]));
                    at = end;
                }
            } else if next == Some(&Token::Sign('(')) || matches!(next, Some(Token::Name(word)) if GROUPINGS[..2].contains(&word.as_str()))
            {
                if name == "label_replace" {
                    query.made.extend(
                        tokens[at..].iter().find_map(|token| if let Token::Text(label) = token { Some(label.clone()) } else { None }),
                    );
                }
                query.functions.insert(name.clone());
            } else {
                let end = if next == Some(&Token::Sign('{')) { after(&tokens, at, '}') } else { at };
                query.selectors.push(Selector { metric: name.clone(), matchers: matchers(&tokens[at..end]) });
                at = end;
            }
        }
        query
    }
}

/// The place behind the next `end`.
fn after(tokens: &[Token], at: usize, end: char) -> usize {
    tokens[at..].iter().position(|token| *token == Token::Sign(end)).map_or(tokens.len(), |found| at + found + 1)
}

fn names(tokens: &[Token]) -> impl Iterator<Item = String> + '_ {
    tokens.iter().filter_map(|token| if let Token::Name(name) = token { Some(name.clone()) } else { None })
}

fn matchers(tokens: &[Token]) -> Vec<Matcher> {
    let mut found = Vec::new();
    let (mut label, mut operator) = (String::new(), String::new());
    for token in tokens {
        match token {
            Token::Name(name) => (label, operator) = (name.clone(), String::new()),
            Token::Sign(sign @ ('=' | '!' | '~')) => operator.push(*sign),
            Token::Sign(_) => {}
            Token::Text(value) => found.push(Matcher { label: label.clone(), operator: operator.clone(), value: value.clone() }),
        }
    }
    found
}

fn tokens(text: &str) -> Vec<Token> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = characters.get(at).copied() {
        let run = |from: usize, wanted: fn(char) -> bool| characters[from..].iter().take_while(|found| wanted(**found)).count();
        let length = match first {
            '"' | '\'' => {
                let inside = characters[at + 1..].iter().take_while(|found| **found != first).count();
                tokens.push(Token::Text(characters[at + 1..at + 1 + inside].iter().collect()));
                inside + 2
            }
            // A number or a duration.
            '0'..='9' => run(at, |found| found.is_ascii_alphanumeric() || found == '.'),
            'a'..='z' | 'A'..='Z' | '_' => {
                let length = run(at, |found| found.is_ascii_alphanumeric() || found == '_' || found == ':');
                tokens.push(Token::Name(characters[at..at + length].iter().collect()));
                length
            }
            _ if first.is_whitespace() => 1,
            _ => {
                tokens.push(Token::Sign(first));
                1
            }
        };
        at += length;
    }
    tokens
}
