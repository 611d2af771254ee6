//! The session map: remembers the worker of each session.
//!
//! The worker of a session is the one that ranks highest for it among all that take work
//! (rendezvous hashing). Finding it means ranking all; it stays the same until one comes or goes.
//! So the results are kept in a small table with one slot per session. A session with the same slot
//! replaces the other, which is searched anew when needed. The answer is that of a search.

/// Slots of 16 bytes: enough for the sessions active at once at a thousand workers.
const PLACES: usize = 8192;

/// The workers found so far.
#[derive(Debug, Default)]
pub(super) struct SessionMap {
    /// Session, and the index of its worker if it has been found.
    table: Vec<(u64, Option<u32>)>,
    /// Indexes of the workers that were searched.
    among: Vec<usize>,
}

impl SessionMap {
    pub(super) fn candidates(&self) -> &[usize] {
        &self.among
    }

    /// Clears the map, because other workers take work from now on.
    pub(super) fn forget(&mut self, among: &[usize]) {
        self.table.clear();
        self.among.clear();
        self.among.extend_from_slice(among);
    }

    /// Returns the worker of `session`, by `search` if it is not known.
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
        let mut session_map = SessionMap::default();
        let find = |session_map: &mut SessionMap, session, place| session_map.of(session, || place);
        assert_eq!(find(&mut session_map, 7, Some(3)), Some(3));
        assert_eq!(find(&mut session_map, 7, Some(9)), Some(3));
        assert_eq!(find(&mut session_map, 7 + PLACES as u64, Some(9)), Some(9));
        assert_eq!(find(&mut session_map, 7, Some(5)), Some(5));
        session_map.forget(&[1, 2]);
        assert_eq!(session_map.candidates(), [1, 2]);
        assert_eq!(find(&mut session_map, 7, None), None);
        assert_eq!(find(&mut session_map, 7, Some(1)), Some(1));
    }
}
