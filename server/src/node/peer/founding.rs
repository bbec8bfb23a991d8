//! Whether a fresh founder waits, founds the cluster, joins the one just founded, or must not.
//!
//! Owns: the rules, as a pure function of one round of answers. Must never: found a cluster twice, or let an emptied data
//! directory take the place of a founder that may have voted.
//!
//! | answers of the other founders | verdict |
//! | --- | --- |
//! | one knows me as a node that was alive in its cluster | refused: my data is elsewhere |
//! | one belongs to a cluster of other founders, or two to two clusters | refused |
//! | one was given another list, or none | refused |
//! | not all have answered | wait for the rest |
//! | all have, one belongs to a cluster of this very list | adopt it |
//! | all have, none belongs to any, and I am the first of the list | found |
//! | the same, and I am not | wait for the first |
//!
//! All must answer, also for an adoption: whichever founder ever counted a vote of mine has seen me, so if none of them has,
//! nothing that was chosen rests on what this directory may have held.

use super::bootstrap_error::BootstrapError;
use synod_proto::peer::IdentifyReply;

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// For these.
    Wait(Vec<String>),
    /// Make a cluster.
    Found,
    /// Belong to this one.
    Adopt(u128),
}

/// One round's answers: every founder but this node, with what it said, if anything.
pub(super) type Round<'a> = Vec<(&'a str, Option<IdentifyReply>)>;

/// Applies the rules for the founder at `index` of `list`.
pub(super) fn decide(list: &[String], index: usize, round: &Round<'_>) -> Result<Verdict, BootstrapError> {
    let me = &list[index];
    let mut cluster: Option<(u128, &str)> = None;
    for (peer, reply) in round {
        let Some(reply) = reply else { continue };
        if reply.cluster.is_empty() {
            if reply.bootstrap != list {
                return Err(BootstrapError::ListDiffers {
                    peer: (*peer).to_owned(),
                    theirs: reply.bootstrap.clone(),
                    ours: list.to_vec(),
                });
            }
            continue;
        }
        let theirs = cluster_of(peer, &reply.cluster)?;
        if reply.ready {
            return Err(BootstrapError::DataElsewhere { cluster: theirs, node: reply.node, addr: me.clone() });
        }
        if reply.founders != list {
            return Err(BootstrapError::OtherCluster {
                peer: (*peer).to_owned(),
                cluster: theirs,
                founders: reply.founders.clone(),
                addr: me.clone(),
            });
        }
        match cluster {
            Some((other, at)) if other != theirs => {
                return Err(BootstrapError::TwoClusters {
                    peers: [at.to_owned(), (*peer).to_owned()],
                    clusters: [other, theirs],
                });
            }
            _ => cluster = Some((theirs, peer)),
        }
    }
    let missing: Vec<String> =
        round.iter().filter(|(_, reply)| reply.is_none()).map(|(peer, _)| (*peer).to_owned()).collect();
    Ok(match cluster {
        _ if !missing.is_empty() => Verdict::Wait(missing),
        Some((cluster, _)) => Verdict::Adopt(cluster),
        None if index == 0 => Verdict::Found,
        None => Verdict::Wait(vec![list[0].clone()]),
    })
}

/// A cluster's name as it is in a reply.
pub(super) fn cluster_of(peer: &str, bytes: &[u8]) -> Result<u128, BootstrapError> {
    let bytes: [u8; 16] = bytes.try_into().map_err(|_| BootstrapError::Nonsense {
        peer: peer.to_owned(),
        why: format!("a cluster name of {} bytes instead of 16", bytes.len()),
    })?;
    Ok(u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Vec<String> {
        ["a:1", "b:2", "c:3"].map(String::from).to_vec()
    }

    fn fresh() -> Option<IdentifyReply> {
        Some(IdentifyReply { bootstrap: list(), ..IdentifyReply::default() })
    }

    fn member(cluster: u128, node: u64, ready: bool) -> Option<IdentifyReply> {
        Some(IdentifyReply {
            cluster: cluster.to_be_bytes().to_vec().into(),
            node,
            founders: list(),
            ready,
            ..IdentifyReply::default()
        })
    }

    fn wait(for_whom: &[&str]) -> Verdict {
        Verdict::Wait(for_whom.iter().map(|s| (*s).to_owned()).collect())
    }

    #[test]
    fn the_first_founds_once_all_are_there_and_the_others_adopt() {
        let list = list();
        let first = |b, c| decide(&list, 0, &vec![("b:2", b), ("c:3", c)]).unwrap();
        assert_eq!(first(None, None), wait(&["b:2", "c:3"]));
        assert_eq!(first(fresh(), None), wait(&["c:3"]));
        assert_eq!(first(fresh(), fresh()), Verdict::Found);
        let third = |a, b| decide(&list, 2, &vec![("a:1", a), ("b:2", b)]).unwrap();
        assert_eq!(third(fresh(), fresh()), wait(&["a:1"]));
        assert_eq!(third(member(7, 3, false), None), wait(&["b:2"]));
        assert_eq!(third(member(7, 3, false), fresh()), Verdict::Adopt(7));
        assert_eq!(third(member(7, 3, false), member(7, 3, false)), Verdict::Adopt(7));
        assert_eq!(decide(&["a:1".to_owned()], 0, &vec![]).unwrap(), Verdict::Found);
    }

    #[test]
    fn the_first_adopts_again_where_nobody_ever_saw_it() {
        let round = vec![("b:2", member(7, 1, false)), ("c:3", fresh())];
        assert_eq!(decide(&list(), 0, &round).unwrap(), Verdict::Adopt(7));
    }

    #[test]
    fn what_must_not_found_is_refused_by_name() {
        let list = list();
        let say = |a, b| decide(&list, 2, &vec![("a:1", a), ("b:2", b)]).unwrap_err().to_string();
        let elsewhere = say(None, member(7, 3, true));
        assert!(elsewhere.contains("node 3 at c:3 has its data elsewhere"), "{elsewhere}");
        assert!(elsewhere.contains("--join under a new address"), "{elsewhere}");
        let two = say(member(7, 3, false), member(8, 3, false));
        assert!(two.contains("a:1") && two.contains("b:2"), "{two}");
        let mut foreign = member(7, 0, false);
        foreign.as_mut().unwrap().founders = vec!["a:1".into(), "b:2".into()];
        let other = say(foreign, None);
        assert!(other.contains("founders a:1, b:2") && other.contains("without c:3"), "{other}");
        let mut listless = fresh();
        listless.as_mut().unwrap().bootstrap.clear();
        assert!(say(listless, None).contains("a:1 was started without --bootstrap"));
        let mut turned = fresh();
        turned.as_mut().unwrap().bootstrap.reverse();
        assert!(say(turned, None).contains("c:3,b:2,a:1"));
        let mut odd = member(7, 3, false);
        odd.as_mut().unwrap().cluster = vec![1, 2, 3].into();
        assert!(say(odd, None).contains("3 bytes"));
    }
}
