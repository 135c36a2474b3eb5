// API keys.

import {soon} from "./soon.js";

export default () => soon("Keys", "Keys are not in the dashboard yet. mdash keys manages them.");
