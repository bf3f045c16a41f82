//! What is done to contestants. Every scenario adds rows to the report and knows nothing of goals.

pub mod admissions;
pub mod bulk;
pub mod fairness;
pub mod idle;
pub mod pingpong;
pub mod requests;
pub mod stuck;

use std::io;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::contestants::Contestant;
use super::link::Link;
use super::wire::broken;

/// How many enter at the same time.
const AT_THE_DOOR: usize = 32;

/// Opens so many links, a few at a time.
pub async fn open(contestant: &Contestant, count: usize) -> io::Result<Vec<Link>> {
    let mut links = Vec::with_capacity(count);
    let mut opening = JoinSet::new();
    for number in 0..count {
        if opening.len() == AT_THE_DOOR
            && let Some(link) = opening.join_next().await
        {
            links.push(link.map_err(io::Error::other)??);
        }
        let (addr, door, name) = (contestant.addr, contestant.door.clone(), contestant.name.clone());
        opening.spawn(async move {
            // With the first message through, the far side is known to be there too.
            let enter = async {
                let mut link = Link::open(addr, &door, number).await?;
                link.ping(64).await?;
                Ok(link)
            };
            enter.await.map_err(|error: io::Error| broken(format!("{name}: entering as number {number}: {error}")))
        });
    }
    while let Some(link) = opening.join_next().await {
        links.push(link.map_err(io::Error::other)??);
    }
    Ok(links)
}

/// Does the same with every link, at most `together` at a time, and gives them back with what came of it.
pub async fn with_each<T, F>(
    links: Vec<Link>,
    together: usize,
    doing: impl Fn(Link) -> F + Send + Sync + 'static,
) -> io::Result<(Vec<Link>, Vec<T>)>
where
    T: Send + 'static,
    F: Future<Output = io::Result<(Link, T)>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(together));
    let doing = Arc::new(doing);
    let mut tasks = JoinSet::new();
    for link in links {
        let (places, doing) = (Arc::clone(&places), Arc::clone(&doing));
        tasks.spawn(async move {
            let _place = places.acquire().await.map_err(io::Error::other)?;
            doing(link).await
        });
    }
    let (mut links, mut results) = (Vec::new(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (link, result) = done.map_err(io::Error::other)??;
        links.push(link);
        results.push(result);
    }
    Ok((links, results))
}

/// Ends all links in a way that leaves no port waiting.
pub fn close(links: Vec<Link>) {
    links.into_iter().for_each(Link::reset);
}
