// The tab "config" of a device.

import {empty} from "../../dialog.js";

export default () => ({element: empty("Nothing here yet", "This tab is not in the dashboard yet.")});
