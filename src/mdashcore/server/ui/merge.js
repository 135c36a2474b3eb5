// Merges and compares shadows and other JSON as the server does.

// Applies an update to a shadow.
export function follow(shadow, {state: update, version, timestamp}) {
  const {desired, reported} = update === null ? {} : merge({desired: shadow.state.desired, reported: shadow.state.reported}, update);
  const delta = difference(desired ?? {}, reported ?? {});
  shadow.state = {
    ...(desired && Object.keys(desired).length && {desired}),
    ...(reported && Object.keys(reported).length && {reported}),
    ...(delta && {delta}),
  };
  Object.assign(shadow, {version, timestamp});
}

// RFC 7396, except that an object that only removes creates no missing object.
export function merge(target, patch) {
  if (!isObject(patch)) return patch;
  const merged = Object.assign(Object.create(null), isObject(target) ? target : {});
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete merged[key];
    else if (isObject(merged[key]) || !onlyRemoves(value)) merged[key] = merge(merged[key], value);
  }
  return merged;
}

// Whether a patch has members, and all of them remove something.
function onlyRemoves(patch) {
  if (!isObject(patch)) return false;
  const values = Object.values(patch);
  return values.length > 0 && values.every((value) => value === null || onlyRemoves(value));
}

// Returns the part of `desired` that `reported` lacks or has with another value; undefined if there is none.
export function difference(desired, reported) {
  const found = Object.create(null);
  for (const [key, value] of Object.entries(desired)) {
    const has = Object.hasOwn(reported, key);
    if (isObject(value) && has && isObject(reported[key])) {
      const inner = difference(value, reported[key]);
      if (inner) found[key] = inner;
    } else if (!has || !same(value, reported[key])) {
      found[key] = value;
    }
  }
  return Object.keys(found).length ? found : undefined;
}

export function same(a, b) {
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((value, i) => same(value, b[i]));
  if (isObject(a) && isObject(b)) {
    const keys = Object.keys(a);
    return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && same(a[key], b[key]));
  }
  return a === b;
}

export const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
