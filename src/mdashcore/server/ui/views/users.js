// Accounts, for admins.

import {soon} from "./soon.js";

export default () => soon("Users", "Users are not in the dashboard yet. mdash users manages them.");
