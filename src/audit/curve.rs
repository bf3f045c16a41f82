//! Whether 32 bytes can be an X25519 share: half of all values are no coordinate on the curve, and no implementation
//! sends one of those.
//!
//! Slow and not constant in time, which is fine for values that have been seen on the wire.

/// Little-endian limbs.
type Number = [u64; 4];

/// 2^255 - 19.
const PRIME: Number = [0xffff_ffff_ffff_ffed, u64::MAX, u64::MAX, 0x7fff_ffff_ffff_ffff];

/// Half of the prime less one: a number is a square if this power of it is 1.
const HALF: Number = [0xffff_ffff_ffff_fff6, u64::MAX, u64::MAX, 0x3fff_ffff_ffff_ffff];

/// Whether the top bit is clear, the number is less than the prime, and it is the coordinate of a point on the curve.
pub fn is_share(share: &[u8; 32]) -> bool {
    let mut u = [0; 4];
    for (limb, bytes) in u.iter_mut().zip(share.chunks(8)) {
        *limb = bytes.iter().rev().fold(0, |limb, byte| limb << 8 | u64::from(*byte));
    }
    // u (u² + 486662 u + 1) is the square of the other coordinate.
    let inner = add(add(multiply(u, u), multiply(u, [486_662, 0, 0, 0])), [1, 0, 0, 0]);
    below_prime(u) && least(power(multiply(u, inner), HALF)) == [1, 0, 0, 0]
}

fn below_prime(number: Number) -> bool {
    number.iter().rev().lt(PRIME.iter().rev())
}

fn add(a: Number, b: Number) -> Number {
    let mut wide = [0; 8];
    let mut carry = 0;
    for at in 0..4 {
        let sum = u128::from(a[at]) + u128::from(b[at]) + carry;
        (wide[at], carry) = (sum as u64, sum >> 64);
    }
    wide[4] = carry as u64;
    fold(wide)
}

fn multiply(a: Number, b: Number) -> Number {
    let mut wide = [0_u64; 8];
    for (i, x) in a.into_iter().enumerate() {
        let mut carry = 0;
        for (j, y) in b.into_iter().enumerate() {
            let sum = u128::from(x) * u128::from(y) + u128::from(wide[i + j]) + carry;
            (wide[i + j], carry) = (sum as u64, sum >> 64);
        }
        wide[i + 4] = carry as u64;
    }
    fold(wide)
}

/// The same modulo the prime in four limbs: 2^256 is worth 38.
fn fold(mut wide: [u64; 8]) -> Number {
    while wide[4..] != [0; 4] {
        let mut folded = [0; 8];
        let mut carry = 0;
        for at in 0..4 {
            let sum = u128::from(wide[at]) + 38 * u128::from(wide[at + 4]) + carry;
            (folded[at], carry) = (sum as u64, sum >> 64);
        }
        folded[4] = carry as u64;
        wide = folded;
    }
    [wide[0], wide[1], wide[2], wide[3]]
}

fn power(base: Number, exponent: Number) -> Number {
    let mut out = [1, 0, 0, 0];
    for bit in (0..256).rev() {
        out = multiply(out, out);
        if exponent[bit / 64] >> (bit % 64) & 1 == 1 {
            out = multiply(out, base);
        }
    }
    out
}

/// The representative below the prime.
fn least(mut number: Number) -> Number {
    while !below_prime(number) {
        let mut borrow = false;
        for (limb, prime) in number.iter_mut().zip(PRIME) {
            let (once, first) = limb.overflowing_sub(prime);
            let (twice, second) = once.overflowing_sub(u64::from(borrow));
            (*limb, borrow) = (twice, first || second);
        }
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::dice::Dice;
    use crate::audit::hello::fresh_share;

    #[test]
    fn real_shares_pass() {
        let mut base = [0; 32];
        base[0] = 9;
        assert!(is_share(&base));
        for _ in 0..50 {
            let share = fresh_share(0x001d).unwrap().try_into().unwrap();
            assert!(is_share(&share), "{share:?}");
        }
    }

    #[test]
    fn half_of_all_values_pass() {
        let mut dice = Dice::new(3);
        let mut values = || {
            let mut value: [u8; 32] = dice.array();
            value[31] &= 0x7f;
            is_share(&value)
        };
        let passed = (0..400).filter(|_| values()).count();
        assert!((160..240).contains(&passed), "{passed}");
    }

    #[test]
    fn values_beyond_the_prime_do_not_pass() {
        let mut share: [u8; 32] = fresh_share(0x001d).unwrap().try_into().unwrap();
        share[31] |= 0x80;
        assert!(!is_share(&share));
        assert!(!is_share(&[0; 32]));
        assert!(!is_share(&[0xff; 32]));
    }
}
