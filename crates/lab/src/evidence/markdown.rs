//! Tables in Markdown.

use std::fmt::{Display, Write};

/// Writes a table. Columns from `numbers_from` on are numbers, which stand at the right.
pub fn write_table<H: Display>(out: &mut String, head: &[H], rows: &[Vec<String>], numbers_from: usize) {
    let mut row = |cells: &mut dyn Iterator<Item = &dyn Display>| {
        // Writing to a string cannot fail.
        cells.for_each(|cell| write!(out, "| {cell} ").unwrap_or_default());
        out.push_str("|\n");
    };
    row(&mut head.iter().map(|cell| cell as &dyn Display));
    let rules: Vec<&str> = (0..head.len()).map(|at| if at < numbers_from { "---" } else { "---:" }).collect();
    row(&mut rules.iter().map(|cell| cell as &dyn Display));
    rows.iter().for_each(|cells| row(&mut cells.iter().map(|cell| cell as &dyn Display)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_at_the_right() {
        let mut out = String::new();
        write_table(&mut out, &["arm", "goodput/s"], &[vec!["a".to_owned(), "1".to_owned()]], 1);
        assert_eq!(out, "| arm | goodput/s |\n| --- | ---: |\n| a | 1 |\n");
    }
}
