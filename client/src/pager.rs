//! Pages read one after another, given out record by record.
//!
//! Owns: the page being given out and the one fetched ahead. Must never: fetch further ahead than one page.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::error::Result;
use crate::types::Record;

/// Some records, and what the stream must know while it gives them out.
pub(crate) struct Page<N> {
    pub(crate) records: Vec<Record>,
    pub(crate) note: N,
}

/// Something that is read page by page. A page of `None` is the end.
pub(crate) trait Pages: Send + Sized + 'static {
    /// What goes with a page.
    type Note: Send + 'static;

    fn next_page(&mut self) -> impl Future<Output = Result<Option<Page<Self::Note>>>> + Send;
}

type Fetched<P> = Result<Option<Page<<P as Pages>::Note>>>;

/// Flattens pages into records. One page is asked for ahead while the one before is being given out.
pub(crate) struct Pager<P: Pages> {
    idle: Option<P>,
    fetch: Option<BoxFuture<'static, (P, Fetched<P>)>>,
    fetched: Option<Fetched<P>>,
    records: VecDeque<Record>,
    note: Option<P::Note>,
    over: bool,
}

impl<P: Pages + Unpin> Pager<P> {
    pub(crate) fn new(pages: P) -> Pager<P> {
        Pager { idle: Some(pages), fetch: None, fetched: None, records: VecDeque::new(), note: None, over: false }
    }

    /// What goes with the page being given out, and whether all its records were.
    pub(crate) fn note(&self) -> Option<(&P::Note, bool)> {
        self.note.as_ref().map(|note| (note, self.records.is_empty()))
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Record>>> {
        loop {
            if self.over && self.records.is_empty() {
                return Poll::Ready(None);
            }
            self.fetch_ahead(cx);
            if let Some(record) = self.records.pop_front() {
                return Poll::Ready(Some(Ok(record)));
            }
            match self.fetched.take() {
                Some(Ok(Some(page))) => {
                    self.records.extend(page.records);
                    self.note = Some(page.note);
                }
                Some(Ok(None)) => self.over = true,
                Some(Err(error)) => {
                    self.over = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => return Poll::Pending,
            }
        }
    }

    /// Starts the next fetch where none is under way, and moves it on.
    fn fetch_ahead(&mut self, cx: &mut Context<'_>) {
        if self.fetched.is_some() || self.over {
            return;
        }
        if let Some(mut pages) = self.idle.take() {
            let fetch = async move {
                let page = pages.next_page().await;
                (pages, page)
            };
            self.fetch = Some(fetch.boxed());
        }
        if let Some(fetch) = &mut self.fetch
            && let Poll::Ready((pages, page)) = fetch.as_mut().poll(cx)
        {
            self.fetch = None;
            self.idle = Some(pages);
            self.fetched = Some(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::error::Error;

    struct Counted {
        asked: u64,
        pages: u64,
        fails: bool,
    }

    fn record(offset: u64) -> Record {
        Record { key: Bytes::new(), offset, ts_us: 0, headers: vec![], value: Bytes::new(), tombstone: false }
    }

    impl Pages for Counted {
        type Note = u64;

        async fn next_page(&mut self) -> Result<Option<Page<u64>>> {
            self.asked += 1;
            match self.asked > self.pages {
                true if self.fails => Err(Error::CrossShard),
                true => Ok(None),
                false => Ok(Some(Page {
                    records: vec![record(2 * self.asked), record(2 * self.asked + 1)],
                    note: self.asked,
                })),
            }
        }
    }

    fn next(pager: &mut Pager<Counted>) -> Option<Result<Record>> {
        match pager.poll(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(item) => item,
            Poll::Pending => panic!("pending"),
        }
    }

    #[test]
    fn gives_all_records_and_ends() {
        let mut pager = Pager::new(Counted { asked: 0, pages: 3, fails: false });
        let mut seen = Vec::new();
        while let Some(item) = next(&mut pager) {
            seen.push(item.unwrap().offset);
            let (note, all) = pager.note().unwrap();
            assert_eq!(*note, seen.last().unwrap() / 2);
            assert_eq!(all, seen.last().unwrap() % 2 == 1);
        }
        assert_eq!(seen, [2, 3, 4, 5, 6, 7]);
        assert!(next(&mut pager).is_none());
    }

    #[test]
    fn an_error_comes_after_the_records_before_it_and_ends() {
        let mut pager = Pager::new(Counted { asked: 0, pages: 1, fails: true });
        assert_eq!(next(&mut pager).unwrap().unwrap().offset, 2);
        assert_eq!(next(&mut pager).unwrap().unwrap().offset, 3);
        assert_eq!(next(&mut pager).unwrap().unwrap_err(), Error::CrossShard);
        assert!(next(&mut pager).is_none());
    }
}
