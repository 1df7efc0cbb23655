//! Reads binary fields back. Follows Postgres' `*_recv` functions, and shares no code with the encoders.

pub(crate) fn numeric(field: &[u8]) -> String {
    let words: Vec<u16> = field.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    let [count, weight, sign, scale] = words[..4] else { panic!("a header of four words") };
    let digits = &words[4..];
    assert_eq!(usize::from(count), digits.len());
    match sign {
        0xc000 => return "NaN".to_owned(),
        0xd000 => return "Infinity".to_owned(),
        0xf000 => return "-Infinity".to_owned(),
        sign => assert!(sign == 0 || sign == 0x4000),
    }
    assert!(digits.iter().all(|digit| *digit < 10_000));
    let weight = i64::from(weight.cast_signed());
    let group = |at: i64| usize::try_from(weight - at).ok().and_then(|at| digits.get(at)).copied().unwrap_or(0);
    let mut text: String = (0..=weight.max(0)).rev().map(|at| format!("{:04}", group(at))).collect();
    text = text.trim_start_matches('0').to_owned();
    if text.is_empty() {
        text.push('0');
    }
    if scale > 0 {
        let fraction: String = (1..=i64::from(scale.div_ceil(4))).map(|at| format!("{:04}", group(-at))).collect();
        // Postgres would drop digits beyond the scale, so they must be zeros.
        assert!(fraction[usize::from(scale)..].bytes().all(|digit| digit == b'0'));
        text = format!("{text}.{}", &fraction[..usize::from(scale)]);
    }
    if sign == 0x4000 { format!("-{text}") } else { text }
}

/// Returns the lengths of an array's dimensions, the oid of its elements' type, and the elements.
pub(crate) fn array(field: &[u8]) -> (Vec<i32>, u32, Vec<Option<Vec<u8>>>) {
    let mut rest = field;
    let mut int = || {
        let (head, tail) = rest.split_first_chunk::<4>().expect("four bytes");
        rest = tail;
        i32::from_be_bytes(*head)
    };
    let (dimensions, has_null, oid) = (int(), int(), int().cast_unsigned());
    let lengths: Vec<i32> = (0..dimensions).map(|_| (int(), assert_eq!(int(), 1)).0).collect();
    let mut elements = Vec::new();
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        match usize::try_from(i32::from_be_bytes(*len)) {
            Ok(len) => {
                elements.push(Some(tail[..len].to_vec()));
                rest = &tail[len..];
            }
            Err(_) => {
                elements.push(None);
                rest = tail;
            }
        }
    }
    assert_eq!(has_null == 1, elements.contains(&None));
    let count: i32 = if lengths.is_empty() { 0 } else { lengths.iter().product() };
    assert_eq!(usize::try_from(count), Ok(elements.len()));
    (lengths, oid, elements)
}

pub(crate) fn int8(field: &[u8]) -> i64 {
    i64::from_be_bytes(field.try_into().expect("eight bytes"))
}

pub(crate) fn float8(field: &[u8]) -> f64 {
    f64::from_be_bytes(field.try_into().expect("eight bytes"))
}

pub(crate) fn float4(field: &[u8]) -> f32 {
    f32::from_be_bytes(field.try_into().expect("four bytes"))
}
