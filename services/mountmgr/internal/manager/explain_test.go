package manager

import (
	"testing"

	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
)

func TestDescribe(t *testing.T) {
	for name, c := range map[string]struct {
		exit *launchv1.ExitStatus
		want string
	}{
		"fatal line": {
			&launchv1.ExitStatus{Code: 1, Stderr: []string{
				"2026/11/21 08:55:54.309249 juicefs[14] <INFO>: Meta address: sqlite3://a.db [NewClient@interface.go:645]",
				"2026/11/21 08:55:54.310385 juicefs[14] <FATAL>: object storage: invalid storage: nosuch [format@format.go:569]",
			}},
			"exit code 1: object storage: invalid storage: nosuch",
		},
		"repeated plain lines": {
			&launchv1.ExitStatus{Error: "no end within 20s", Stderr: []string{"dial failed", "dial failed", "dial failed"}},
			"no end within 20s: dial failed",
		},
		"only information": {
			&launchv1.ExitStatus{Signal: 9, Stderr: []string{"2026/11/21 08:55:54.309249 juicefs[14] <INFO>: fine [a@b.go:1]"}},
			"killed by signal 9",
		},
		"at most three": {
			&launchv1.ExitStatus{Code: 2, Stderr: []string{"a", "b", "c", "d"}},
			"exit code 2: b; c; d",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := describe(c.exit); got != c.want {
				t.Errorf("describe = %q, want %q", got, c.want)
			}
		})
	}
}
