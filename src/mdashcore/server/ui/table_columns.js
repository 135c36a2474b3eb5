// Which columns of a table there is room for.

export const CHECK_WIDTH = 1.3; // rem of the column with the boxes
const GAP = 1, PADDING = 2; // rem between two columns, and at both ends
const DEFAULT_MIN = 6; // rem of a column that does not say its smallest width

// Returns the smallest width of a table with these columns, in rem.
export function widthOf(columns, {selectable}) {
  return PADDING + (selectable ? CHECK_WIDTH + GAP : 0) + columns.reduce((sum, {min = DEFAULT_MIN}) => sum + min + GAP, -GAP);
}

// Returns the columns that fit into `room` rem: without those that have the greatest `drop`, as many as is needed.
export function fittingColumns(columns, room, {selectable}) {
  let fitting = [...columns];
  const droppable = columns.filter(({drop}) => drop !== undefined).sort((a, b) => b.drop - a.drop);
  while (droppable.length && widthOf(fitting, {selectable}) > room) {
    const left = droppable.shift();
    fitting = fitting.filter((column) => column !== left);
  }
  return fitting;
}
