package volume

import "testing"

func TestParseMetaURL(t *testing.T) {
	for text, want := range map[string]metaURL{
		"host:6379/1":                              {address: "redis://host:6379/1"},
		"redis://host:6379/1":                      {address: "redis://host:6379/1"},
		"redis://:p%40ss@host:6379/1":              {address: "redis://:@host:6379/1", password: "p@ss"},
		"rediss://user:pass@host/1?x=a@b":          {address: "rediss://user:@host/1?x=a@b", password: "pass"},
		"redis://user@host/1":                      {address: "redis://user@host/1"},
		"redis://:pw@master,10.0.0.1,10.0.0.2/2":   {address: "redis://:@master,10.0.0.1,10.0.0.2/2", password: "pw"},
		"mysql://u:p@s/w:d@(127.0.0.1:3306)/jfs":   {address: "mysql://u:@(127.0.0.1:3306)/jfs", password: "p@s/w:d"},
		"mysql://u:100%@(127.0.0.1:3306)/jfs":      {address: "mysql://u:@(127.0.0.1:3306)/jfs", password: "100%"},
		"postgres://u:p%23@h:5432/db?sslmode=none": {address: "postgres://u:@h:5432/db?sslmode=none", password: "p#"},
		"sqlite3:///data/jfs.db":                   {address: "sqlite3:///data/jfs.db"},
		"tikv://pd1:2379,pd2:2379/jfs":             {address: "tikv://pd1:2379,pd2:2379/jfs"},
	} {
		got, err := parseMetaURL(text)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "  ", "redis://", "://x", "redis://a b"} {
		if got, err := parseMetaURL(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
}
