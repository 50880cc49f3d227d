package volume

import "testing"

func TestEngineHost(t *testing.T) {
	for address, want := range map[string]string{
		"redis://cache:6380/1":                         "cache:6380",
		"redis://cache/1":                              "cache:6379",
		"rediss://user:@cache.example.com:6379/1":      "cache.example.com:6379",
		"redis://[fd00::1]:6379/1":                     "[fd00::1]:6379",
		"redis://[fd00::1]/1":                          "[fd00::1]:6379",
		"redis://master,one,two:26379/1":               "",
		"postgres://user:@db:5433/jfs?sslmode=off":     "db:5433",
		"postgres://user:@/jfs?host=/var/run":          "",
		"mysql://user:@(db:3306)/jfs":                  "db:3306",
		"mysql://user:@unix(/var/run/mysqld.sock)/jfs": "",
		"sqlite3:///var/lib/jfs.db":                    "",
		"tikv://one:2379,two:2379/jfs":                 "",
	} {
		if got := engineHost(address); got != want {
			t.Errorf("engineHost(%s) = %q, want %q", address, got, want)
		}
	}
}
