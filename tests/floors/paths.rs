//! Finds the paths in a source text that lead into its crate, or to a watched crate.

use proc_macro2::{TokenStream, TokenTree};

use super::{OWNED, STRAY};

/// Finds every path in `source`, from the crate's root; for a crate in [`STRAY`](super::STRAY) or [`OWNED`](super::OWNED) it is
/// `["", name]`.
pub(crate) fn paths(here: &[&str], source: TokenStream, found: &mut Vec<Vec<String>>) {
    let trees: Vec<TokenTree> = source.into_iter().collect();
    let word = |at: usize| trees.get(at).map(TokenTree::to_string).unwrap_or_default();
    for (at, tree) in trees.iter().enumerate() {
        // What follows `::` belongs to the path before it.
        let follows = at > 0 && word(at - 1) == ":" && word(at.wrapping_sub(2)) == ":";
        if follows {
            continue;
        }
        if let TokenTree::Group(group) = tree {
            let name = word(at.wrapping_sub(1));
            let inner = [here, &[name.as_str()]].concat();
            let is_module = word(at.wrapping_sub(2)) == "mod";
            paths(if is_module { &inner } else { here }, group.stream(), found);
        }
        let (name, leads_on) = (word(at), word(at + 1) == ":" && word(at + 2) == ":");
        match name.as_str() {
            "crate" | "traffic_dam" if leads_on => follow(Vec::new(), &trees[at + 3..], found),
            "super" if leads_on => {
                follow(here.iter().map(|&part| part.into()).collect(), &trees[at..], found);
            }
            name if is_watched(name) && (leads_on || word(at.wrapping_sub(1)) == "use") => {
                found.push(vec![String::new(), name.into()]);
            }
            _ => {}
        }
    }
}

fn is_watched(outside: &str) -> bool {
    STRAY.contains(&outside) || OWNED.iter().any(|(owned, _)| *owned == outside)
}

/// Follows the path, or the tree of paths, at the start of `rest`, from `base`.
fn follow(mut base: Vec<String>, rest: &[TokenTree], found: &mut Vec<Vec<String>>) {
    match rest.first() {
        Some(TokenTree::Group(group)) => {
            let trees: Vec<TokenTree> = group.stream().into_iter().collect();
            for branch in trees.split(|tree| tree.to_string() == ",") {
                follow(base.clone(), branch, found);
            }
            return;
        }
        Some(first) => match first.to_string().as_str() {
            "self" => {}
            "super" => drop(base.pop()),
            name => base.push(name.into()),
        },
        None => return,
    }
    if rest.len() > 3 && rest[1].to_string() == ":" && rest[2].to_string() == ":" {
        follow(base, &rest[3..], found);
    } else {
        found.push(base);
    }
}
