// What a session says of the lock that it has, beside its key: a comment, in a statement of nothing else, which pg_stat_activity shows as
// the session's last one. So it is there as long as the session says nothing else, even if its process stands still; it takes no table, and
// is seen by those who may see what others run: the session's own role, and members of pg_read_all_stats.

/** What `pg-locker run --name … --detail …` says of its lock. One of the two is there. */
export interface LockDescription {
  readonly name?: string;
  readonly detail?: string;
}

/** How it begins, for a look at the sessions of all. */
export const descriptionStart = "/* pg-locker ";

/** Bytes that a comment may have: `track_activity_query_size` is 1024 by default, and cuts off the rest. */
const longest = 1_000;

/** @returns the comment; `undefined` if the description is too long to be shown */
export function descriptionComment(description: LockDescription): string | undefined {
  // In ASCII, whatever the encoding of the database, and without a slash, which would begin or end a comment.
  const text = JSON.stringify(description).replace(
    /[/\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  const comment = `${descriptionStart}${text} */`;
  return comment.length > longest ? undefined : comment;
}

/** What such a comment says, if it is one. A server that shows less than most may have cut it off. */
export function descriptionIn(statement: string | null): LockDescription | undefined {
  if (!statement?.startsWith(descriptionStart)) return undefined;
  const text = statement.slice(descriptionStart.length).replace(/ \*\/$/, "");
  return parsed(text) ?? parsed(`${text}…"}`);
}

function parsed(text: string): LockDescription | undefined {
  try {
    const { name, detail } = JSON.parse(text) as Record<keyof LockDescription, unknown>;
    if (typeof name !== "string" && typeof detail !== "string") return undefined;
    return {
      ...(typeof name === "string" && { name }),
      ...(typeof detail === "string" && { detail }),
    };
  } catch {
    // Not one of ours, or cut off in the middle of a character.
    return undefined;
  }
}
