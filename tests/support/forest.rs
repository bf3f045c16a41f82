//! A random forest: tells two kinds of samples apart as well as it can, and how well that is.

use super::dice::Dice;

const TREES: usize = 40;

/// Parts that are judged one after the other.
const PARTS: usize = 4;

/// Fewest samples of a leaf, and most steps to one.
const LEAST: usize = 3;
const DEEPEST: usize = 12;

/// How often the predictions are drawn again for the spread of their quality.
const DRAWS: usize = 200;

/// What is known of one sample, and its kind.
pub struct Sample {
    pub features: Vec<f64>,
    pub positive: bool,
}

/// The area under the ROC curve of predictions: 0.5 is guessing, 1 is knowing.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    pub found: f64,
    /// What chance leaves in 99 of 100 cases.
    pub least: f64,
}

/// How well the kinds can be told. The samples are judged in parts, each by trees that were grown from the others.
pub fn separability(samples: &[Sample], dice: &mut Dice) -> Area {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    dice.shuffle(&mut order);
    // As many of each kind in every part: trees that know how many are left would guess the others' kind.
    order.sort_by_key(|index| samples[*index].positive);
    let mut scores = Vec::new();
    for part in 0..PARTS {
        let is_here = |place: &usize| place % PARTS == part;
        let known: Vec<usize> = (0..order.len()).filter(|place| !is_here(place)).map(|place| order[place]).collect();
        let trees: Vec<Node> = (0..TREES)
            .map(|_| {
                let mut drawn: Vec<usize> = known.iter().map(|_| known[dice.below(known.len())]).collect();
                Node::grow(samples, &mut drawn, dice, 0)
            })
            .collect();
        scores.extend((0..order.len()).filter(is_here).map(|place| {
            let Sample { features, positive } = &samples[order[place]];
            (trees.iter().map(|tree| tree.judge(features)).sum::<f64>(), *positive)
        }));
    }
    let again = |_| area(&scores.iter().map(|_| scores[dice.below(scores.len())]).collect::<Vec<_>>());
    let mut areas: Vec<f64> = (0..DRAWS).map(again).collect();
    areas.sort_by(f64::total_cmp);
    Area { found: area(&scores), least: areas[DRAWS / 100] }
}

enum Node {
    /// Share of positive samples.
    Leaf(f64),
    Split {
        feature: usize,
        above: f64,
        sides: Box<[Node; 2]>,
    },
}

impl Node {
    fn grow(samples: &[Sample], here: &mut [usize], dice: &mut Dice, depth: usize) -> Self {
        let positive = here.iter().filter(|index| samples[**index].positive).count();
        let leaf = Self::Leaf(positive as f64 / here.len() as f64);
        if positive == 0 || positive == here.len() || here.len() < 2 * LEAST || depth == DEEPEST {
            return leaf;
        }
        let mut features: Vec<usize> = (0..samples[0].features.len()).collect();
        dice.shuffle(&mut features);
        features.truncate((features.len() as f64).sqrt().ceil() as usize);
        let splits = features.into_iter().filter_map(|feature| best_split(samples, here, feature));
        let Some((_, feature, above)) = splits.min_by(|one, other| one.0.total_cmp(&other.0)) else { return leaf };
        here.sort_by_key(|index| samples[*index].features[feature] > above);
        let border = here.partition_point(|index| samples[*index].features[feature] <= above);
        let (less, more) = here.split_at_mut(border);
        let sides = [less, more].map(|side| Self::grow(samples, side, dice, depth + 1));
        Self::Split { feature, above, sides: Box::new(sides) }
    }

    fn judge(&self, features: &[f64]) -> f64 {
        match self {
            Self::Leaf(share) => *share,
            Self::Split { feature, above, sides } => sides[usize::from(features[*feature] > *above)].judge(features),
        }
    }
}

/// Impurity that the best split by this feature leaves, and where it is.
fn best_split(samples: &[Sample], here: &[usize], feature: usize) -> Option<(f64, usize, f64)> {
    let mut sorted: Vec<(f64, bool)> =
        here.iter().map(|index| (samples[*index].features[feature], samples[*index].positive)).collect();
    sorted.sort_by(|one, other| one.0.total_cmp(&other.0));
    let all = sorted.iter().filter(|(_, positive)| *positive).count() as f64;
    let impurity = |positive: f64, count: f64| positive * (count - positive) / count;
    let (mut best, mut positive) = (None::<(f64, usize, f64)>, 0.0);
    for (number, pair) in sorted.windows(2).enumerate() {
        positive += f64::from(u8::from(pair[0].1));
        let (count, rest) = ((number + 1) as f64, (sorted.len() - number - 1) as f64);
        if pair[0].0 == pair[1].0 || number + 1 < LEAST || sorted.len() - number - 1 < LEAST {
            continue;
        }
        let left = impurity(positive, count) + impurity(all - positive, rest);
        if best.is_none_or(|(least, ..)| left < least) {
            best = Some((left, feature, (pair[0].0 + pair[1].0) / 2.0));
        }
    }
    best
}

/// How often a positive sample has the higher score; equal ones count half.
fn area(scores: &[(f64, bool)]) -> f64 {
    let mut sorted = scores.to_vec();
    sorted.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut below, mut won) = (0.0, 0.0);
    for equal in sorted.chunk_by(|one, other| one.0 == other.0) {
        let positive = equal.iter().filter(|(_, positive)| *positive).count() as f64;
        let negative = equal.len() as f64 - positive;
        won += positive * (below + negative / 2.0);
        below += negative;
    }
    let positive = scores.len() as f64 - below;
    if positive == 0.0 || below == 0.0 { 0.5 } else { won / (positive * below) }
}
