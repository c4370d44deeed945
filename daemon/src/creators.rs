//! Which threads of a process create its threads.

use crate::stream::Creator;

/// Threads of a process that are told apart in a window. What further ones create is in the process's count only.
const MOST: usize = 64;

/// Names that are told.
const TOLD: usize = 4;

/// How many threads each thread of a process has created in a window, by the ids of the creators.
#[derive(Debug, Default)]
pub struct Creators(Vec<(u32, u64)>);

impl Creators {
    /// A thread has created another.
    pub fn add(&mut self, tid: u32) {
        if let Some((_, count)) = self.0.iter_mut().find(|(known, _)| *known == tid) {
            *count += 1;
        } else if self.0.len() < MOST {
            self.0.push((tid, 1));
        }
    }

    /// Those that are still known by name, like-named ones together, most first; and begins anew.
    pub fn take(&mut self, name_of: impl Fn(u32) -> Option<String>) -> Vec<Creator> {
        let mut named: Vec<Creator> = Vec::new();
        for (tid, threads) in self.0.drain(..) {
            let Some(name) = name_of(tid) else { continue };
            match named.iter_mut().find(|known| known.name == name) {
                Some(known) => known.threads += threads,
                None => named.push(Creator { name, threads }),
            }
        }
        named.sort_by(|a, b| b.threads.cmp(&a.threads).then_with(|| a.name.cmp(&b.name)));
        named.truncate(TOLD);
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(tid: u32) -> Option<String> {
        (tid != 9).then(|| if tid < 5 { "pool-#" } else { "main" }.to_owned())
    }

    #[test]
    fn like_named_creators_are_added_up() {
        let mut creators = Creators::default();
        for tid in [1, 5, 2, 1, 9] {
            creators.add(tid);
        }
        let taken: Vec<_> = creators
            .take(name)
            .into_iter()
            .map(|creator| (creator.name, creator.threads))
            .collect();
        assert_eq!(taken, [("pool-#".to_owned(), 3), ("main".to_owned(), 1)]);
        assert_eq!(creators.take(name), [], "of the next window");
    }

    #[test]
    fn many_creators_take_no_more_room() {
        let mut creators = Creators::default();
        for tid in 0..1_000 {
            creators.add(tid);
        }
        creators.add(0);
        assert_eq!(creators.0.len(), MOST);
        let taken = creators.take(|tid| Some(format!("t{tid}")));
        assert_eq!(taken.len(), TOLD);
        assert_eq!(taken[0].threads, 2);
    }
}
