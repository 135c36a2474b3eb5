// Downloads the list of devices as CSV: of all devices that match, from the server, in pages.

import {getCsv} from "../../api.js";
import {loading, tellFailure, toast} from "../../dialog.js";
import {h} from "../../dom.js";

const CSV_PAGE = 1000; // devices of one answer: the server gives no more
const KEPT_TIME = 60_000; // ms until the browser has read the file

// downloadDevices({fields, filter, sort})
export async function downloadDevices({fields, filter, sort}) {
  const end = loading();
  const parts = [];
  try {
    for (let query = {fields: fields.join(), filter, sort, limit: CSV_PAGE}; query; ) {
      const {text, next} = await getCsv("/devices", query);
      parts.push(text);
      query = next;
    }
  } catch (problem) {
    if (problem.status === undefined) console.error(problem); // a bug
    tellFailure("Download", problem);
    return;
  } finally {
    end();
  }
  const name = `devices-${new Date().toISOString().slice(0, 10)}.csv`;
  const url = URL.createObjectURL(new Blob(parts, {type: "text/csv"}));
  h("a", {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), KEPT_TIME);
  toast(`${name} is saved.`);
}
