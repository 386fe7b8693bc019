// The description of a session's lock, beside its key. It is a comment, sent as a statement of its own, which pg_stat_activity shows as
// the session's last statement. It stays there until the session sends another statement, even if its process stands still. It needs no
// table. The session's own role and members of pg_read_all_stats can see it.

/** The description that `pg-locker run --name … --detail …` gives its lock. At least one of the two is present. */
export interface LockDescription {
  readonly name?: string;
  readonly detail?: string;
}

/** The beginning of a description comment, by which SQL finds it among all sessions. */
export const descriptionStart = "/* pg-locker ";

/** The longest comment in bytes: by default, `track_activity_query_size` cuts a statement after 1024. */
const longest = 1_000;

/** Writes a description as a comment. @returns `undefined` if the description is too long to be shown */
export function descriptionComment(description: LockDescription): string | undefined {
  // ASCII only, because of the database's encoding, and without a slash, which would begin or end a comment.
  const text = JSON.stringify(description).replace(
    /[/\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  const comment = `${descriptionStart}${text} */`;
  return comment.length > longest ? undefined : comment;
}

/** Reads a description comment; `undefined` if the statement isn't one. A server with a small `track_activity_query_size` may have cut it. */
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
    // Something else wrote the comment, or it was cut in the middle of a character.
    return undefined;
  }
}
