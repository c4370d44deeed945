//! `slowburn schema`: the JSON schema of the stream, generated from its types.

use schemars::schema_for;

use crate::stream::Line;

/// The schema, as it is committed in `docs/schema/v1.json`.
///
/// # Panics
/// Never: a schema is always representable as JSON.
pub fn text() -> String {
    let mut text = serde_json::to_string_pretty(&schema_for!(Line)).expect("a schema is JSON");
    text.push('\n');
    text
}

/// Prints it.
pub fn run() {
    print!("{}", text());
}

#[cfg(test)]
mod tests {
    #[test]
    fn committed_schema_is_that_of_the_types() {
        let committed = include_str!("../../../docs/schema/v1.json");
        assert!(
            committed == super::text(),
            "the stream's types have changed: note it in CHANGELOG.md, then `cargo run -p slowburn -- schema > docs/schema/v1.json`"
        );
    }
}
