//! Where sessions belong, remembered.
//!
//! The home of a session is the worker that ranks highest for it among all that take work (rendezvous hashing). To find
//! it every worker has to be ranked; it stays the same until one comes or goes. So what was found is kept in a small
//! table, each session at one place of it: a later one that falls on the same place takes it over, and the other is
//! found anew when it is asked for. The answer is always the one that a search would give.

/// Places in the table. 8192 of 16 bytes; so many sessions are active at once before a thousand workers.
const PLACES: usize = 8192;

/// The homes found so far.
#[derive(Debug, Default)]
pub(super) struct Homes {
    /// Session and place of its worker, if there is one.
    table: Vec<(u64, Option<u32>)>,
    /// Among which workers they were sought.
    among: Vec<usize>,
}

impl Homes {
    /// Among which workers homes are sought.
    pub(super) fn among(&self) -> &[usize] {
        &self.among
    }

    /// Others take work from now on.
    pub(super) fn forget(&mut self, among: &[usize]) {
        self.table.clear();
        self.among.clear();
        self.among.extend_from_slice(among);
    }

    /// The home of `session`, by `search` when it is not known.
    pub(super) fn of(&mut self, session: u64, search: impl FnOnce() -> Option<usize>) -> Option<usize> {
        if self.table.is_empty() {
            self.table.resize(PLACES, (0, None));
        }
        let entry = self.table.get_mut(session as usize % PLACES)?;
        match *entry {
            (known, Some(place)) if known == session => Some(place as usize),
            _ => {
                let place = search()?;
                *entry = (session, u32::try_from(place).ok());
                Some(place)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_sought_once_until_others_take_work_or_the_place_is_taken() {
        let mut homes = Homes::default();
        let find = |homes: &mut Homes, session, place| homes.of(session, || place);
        assert_eq!(find(&mut homes, 7, Some(3)), Some(3));
        assert_eq!(find(&mut homes, 7, Some(9)), Some(3));
        assert_eq!(find(&mut homes, 7 + PLACES as u64, Some(9)), Some(9));
        assert_eq!(find(&mut homes, 7, Some(5)), Some(5));
        homes.forget(&[1, 2]);
        assert_eq!(homes.among(), [1, 2]);
        assert_eq!(find(&mut homes, 7, None), None);
        assert_eq!(find(&mut homes, 7, Some(1)), Some(1));
    }
}
