//! One budget for many that need different amounts of it.
//!
//! Owns: the arithmetic of sharing by need. Must never: give more than the budget, or give one its fill while another that
//! needs no more is cut shorter.

/// The most that any one of `needs` may have so that all together have at most `budget`: who needs less has what it needs, and
/// what is left is shared evenly among the others (max-min fairness). Where all have what they need it is the budget.
/// Reorders `needs`.
#[must_use]
pub fn level(needs: &mut [u64], budget: u64) -> u64 {
    needs.sort_unstable();
    let mut left = budget;
    for (at, need) in needs.iter().enumerate() {
        let share = left / (needs.len() - at) as u64;
        if *need > share {
            return share;
        }
        left -= need;
    }
    budget
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_needs_little_has_it_and_the_others_share_what_is_left() {
        assert_eq!(level(&mut [], 100), 100);
        assert_eq!(level(&mut [30, 0, 70], 100), 100);
        assert_eq!(level(&mut [1000, 10, 1000], 100), 45);
        assert_eq!(level(&mut [50, 50, 50, 50], 100), 25);
        assert_eq!(level(&mut [u64::MAX, u64::MAX], 3), 1);
    }

    #[test]
    fn together_they_never_have_more_than_the_budget() {
        for seed in 0..500u64 {
            let mut needs: Vec<u64> = (0..seed % 20).map(|n| (seed * 7919 + n * 104_729) % 1000).collect();
            let budget = seed * 31 % 4000;
            let level = level(&mut needs, budget);
            let had: u64 = needs.iter().map(|need| (*need).min(level)).sum();
            assert!(had <= budget, "seed {seed}: {had} of {budget}");
            let cut = needs.iter().filter(|need| **need > level).count() as u64;
            assert!(cut == 0 || budget - had < cut, "seed {seed}: {} left of {budget}, {cut} cut", budget - had);
        }
    }
}
