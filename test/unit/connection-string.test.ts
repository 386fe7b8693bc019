import { describe, expect, test } from "vitest";
import { readConnectionString } from "../../src/cli/connection/connection-string.ts";

/** What a string says, by libpq's keywords. */
function read(text: string): Record<string, string> {
  const settings = readConnectionString(text, "DATABASE_URL");
  return Object.fromEntries([...settings].map(([keyword, { value }]) => [keyword, value]));
}

const whole = { user: "app", password: "s3cret", host: "db.example", port: "5433", dbname: "shop" };

describe("a connection string is understood", () => {
  test.each([
    ["a URL", "postgres://app:s3cret@db.example:5433/shop"],
    ["postgresql:", "postgresql://app:s3cret@db.example:5433/shop"],
    ["SQLAlchemy's", "postgresql+psycopg2://app:s3cret@db.example:5433/shop"],
    ["a line end, as of a file with a secret", "postgres://app:s3cret@db.example:5433/shop\r\n"],
    ["blanks, tabs and quotes around it", "\t 'postgres://app:s3cret@db.example:5433/shop' "],
    ["libpq's keywords", "host=db.example port=5433 user=app password=s3cret dbname=shop"],
    ["with quotes and blanks", "host = 'db.example' port=5433  user='app' password = s3cret dbname=shop\n"],
    ["JDBC's", "jdbc:postgresql://db.example:5433/shop?user=app&password=s3cret"],
    ["a URL's query", "postgres:///?host=db.example&port=5433&user=app&password=s3cret&dbname=shop"],
    [
      "what another program has in its URL",
      "postgres://app:s3cret@db.example:5433/shop?schema=public&pgbouncer=true",
    ],
  ])("%s", (_, text) => {
    expect(read(text)).toEqual(whole);
  });

  test.each([
    [
      "a raw @ in a password",
      "postgres://app:p@ss@db.example/shop",
      { password: "p@ss", host: "db.example" },
    ],
    [
      "an encoded one",
      "postgres://app:p%40%2F%23%3F@db.example/shop",
      { password: "p@/#?", host: "db.example" },
    ],
    ["a colon in a password", "postgres://app:a:b@db.example/shop", { user: "app", password: "a:b" }],
    [
      "a quote and a backslash",
      String.raw`host=h password='it\'s a \\'`,
      { password: String.raw`it's a \ `.trim() },
    ],
    ["an empty value", "host=h password='' dbname=", { host: "h" }],
    ["several hosts", "postgres://a:1,b:2,c/shop", { host: "a,b,c", port: "1,2," }],
    ["IPv6", "postgres://app@[::1]:5433/shop", { host: "::1", port: "5433" }],
    ["a socket's folder, encoded", "postgres://%2Fvar%2Frun/shop", { host: "/var/run", dbname: "shop" }],
    ["a socket's folder", "/var/run shop", { host: "/var/run", dbname: "shop" }],
    ["node-postgres's ssl", "postgres://h/d?ssl=true", { sslmode: "verify-full" }],
    ["and its no-verify", "postgres://h/d?ssl=no-verify", { sslmode: "no-verify" }],
    ["JDBC without a host", "jdbc:postgresql:shop", { dbname: "shop" }],
    [
      "JDBC's targets",
      "jdbc:postgresql://a,b/d?targetServerType=primary",
      { host: "a,b", target_session_attrs: "primary" },
    ],
  ])("%s", (_, text, expected) => {
    expect(read(text)).toMatchObject(expected);
  });
});

describe("an invalid connection string is refused by its source, and isn't shown", () => {
  test.each([
    ["an empty one", " \n", "DATABASE_URL is empty"],
    ["two lines", "postgres://h/d\npostgres://h/e", "more than one line"],
    ["MySQL", "mysql://app:hunter2@h/d", "names MySQL or MariaDB"],
    ["MySQL over JDBC", "jdbc:mysql://h/d?password=hunter2", "names MySQL or MariaDB"],
    ["MongoDB", "mongodb+srv://app:hunter2@h/d", "names MongoDB"],
    ["a web server", "https://app:hunter2@h/d", "names a web server"],
    ["a name alone", "hunter2", "Expected DATABASE_URL to be a connection string"],
    ["a raw / in a password", "postgres://app:hun/ter2@h/d", '"/" %2F'],
    ["one that could be a port", "postgres://app:12/hunter2@h/d", '"/" %2F'],
    ["a raw # in a password", "postgres://app:hun#ter2@h/d", '"#" %23'],
    ["a raw ? in a password", "postgres://app:hun?ter2@h/d", '"?" %3F'],
    ["a raw % in a password", "postgres://app:hunter2%@h/d", '"%" %25'],
    ["a raw / behind a raw @", "postgres://app:hun@ter/2@h/d", '"/" %2F'],
    ["a port that is none", "postgres://app:hunter2@h:54x/d", "no host and port"],
    ["keywords that aren't", "host=h password=hunter2 ter2", "put single quotes around"],
    ["an open quote", "host=h password='hunter2", "put single quotes around"],
    ["a keyword that is none", "host=h password=x hunter2=x", "libpq doesn't know"],
    ["a slip of the pen", "postgres://h/d?sslmod=require", "looks like sslmode"],
  ])("%s", (_, text, sentence) => {
    const refused = (() => {
      try {
        return read(text);
      } catch (error) {
        return (error as Error).message;
      }
    })();
    expect(refused).toContain(sentence);
    expect(refused).toContain("DATABASE_URL");
    expect(refused).not.toMatch(/hun|ter2|\n/);
  });
});
