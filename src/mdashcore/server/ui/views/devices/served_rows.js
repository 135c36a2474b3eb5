// The rows of a list as the server sorts and filters them. They are read in pages, more while a person scrolls, and read
// again if the order may have changed. Their places stay until then.

import {inWords} from "../../dialog.js";
import * as live from "../../live.js";

const FIRST_ROWS = 100; // more than a screen has
const MORE_ROWS = 300; // ten screens, in a few milliseconds
const MOST_ROWS = 1000; // that are read again by themselves: one answer. Of a longer list a person asks for it
const OLD_AGE = 10_000; // ms for which changes may wait before the rows are read again: the server sorts all devices for it
const NEW_AGE = 2000; // ms for a device that was registered or removed

// servedRows({onChange, places() → places in the shadow that the rows have}): {ask({sort, filter}, {rows}), more(), reload(), noteChange(), drop(ids), destroy(), and getters}.
// onChange is called when a getter has another value:
//   devices: those that were read so far; null before the first answer.   total: the number of all that match, or null
//   isEnd: whether these are all.   isOld: whether a person has to ask for the changes.   error: for people, or ""
export function servedRows({onChange, places}) {
  let query = null; // {sort, filter}
  let devices = null;
  let next = null;
  let total = null;
  let error = "";
  let isOld = false;
  let reading = null; // an AbortController
  let timer = null;

  // Reads `limit` rows in place of all, or those of the next page.
  async function read(page, {isMore = false} = {}) {
    reading?.abort();
    clearTimeout(timer);
    timer = null;
    const mine = reading = new AbortController();
    try {
      const found = await live.readRows(page, {places: places(), signal: mine.signal});
      if (mine.signal.aborted || found === null) return;
      const known = new Set(isMore ? devices : []); // a device that has moved is given twice
      devices = isMore ? [...devices, ...found.devices.filter((device) => !known.has(device))] : found.devices;
      ({next} = found);
      if (!isMore) {
        ({total} = found);
        isOld = false;
      }
      error = "";
    } catch (problem) {
      if (mine.signal.aborted) return;
      if (problem.status === undefined) console.error(problem); // a bug
      if (problem.status === 413 && query.sort !== "id") {
        query = {...query, sort: "id"};
        read({...query, limit: FIRST_ROWS});
        return;
      }
      error = inWords(problem);
    }
    reading = null;
    onChange();
  }

  function reload() {
    read({...query, limit: Math.min(MOST_ROWS, Math.max(FIRST_ROWS, devices?.length ?? 0)), count: 1});
  }

  return {
    get devices() { return devices; },
    get total() { return total; },
    get isEnd() { return devices !== null && next === null; },
    get isOld() { return isOld; },
    get error() { return error; },
    // `rows`: how many at least. Returns whether these are other rows than before.
    ask(wanted, {rows = 0} = {}) {
      if (JSON.stringify(wanted) === JSON.stringify(query)) return false;
      query = wanted;
      devices = next = total = null;
      error = "";
      isOld = false;
      read({...query, limit: Math.min(MOST_ROWS, Math.max(FIRST_ROWS, rows)), count: 1});
      return true;
    },
    more() {
      if (next !== null && reading === null && error === "") read({...next, limit: MORE_ROWS, count: undefined}, {isMore: true});
    },
    reload,
    // The order, or the devices that match, may have changed. `byHand`: to read them again takes long.
    noteChange({isNew = false, byHand = false} = {}) {
      if (devices === null || isOld || timer !== null) return;
      timer = setTimeout(() => {
        timer = null;
        if (document.hidden || byHand || devices.length > MOST_ROWS) {
          isOld = true;
          onChange();
        } else {
          reload();
        }
      }, isNew ? NEW_AGE : OLD_AGE);
    },
    drop(ids) {
      const left = devices.filter(({id}) => !ids.has(id));
      if (total !== null) total -= devices.length - left.length;
      devices = left;
    },
    // Reads them when they are asked for the next time.
    forget() {
      reading?.abort();
      clearTimeout(timer);
      reading = timer = query = devices = null;
    },
    destroy() {
      reading?.abort();
      clearTimeout(timer);
    },
  };
}
