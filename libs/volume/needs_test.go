package volume

import "testing"

func TestSameFileSystem(t *testing.T) {
	base := map[string]string{"name": "fs", "metaurl": "redis://:secret@host:6379/1"}
	console := map[string]string{"name": "fs", "token": "t", "envs": `{"BASE_URL": "http://a", "X": "1"}`}
	for name, c := range map[string]struct {
		a, b map[string]string
		want bool
	}{
		"equal":           {base, map[string]string{"name": "fs", "metaurl": "redis://:secret@host:6379/1"}, true},
		"a new password":  {base, map[string]string{"name": "fs", "metaurl": "redis://:other@host:6379/1"}, true},
		"other storage":   {base, map[string]string{"name": "fs", "metaurl": "redis://:secret@host:6379/1", "bucket": "b"}, true},
		"another engine":  {base, map[string]string{"name": "fs", "metaurl": "redis://:secret@host:6379/2"}, false},
		"another name":    {base, map[string]string{"name": "fs2", "metaurl": "redis://:secret@host:6379/1"}, false},
		"another edition": {base, console, false},
		"equal console":   {console, map[string]string{"name": "fs", "token": "t", "envs": "BASE_URL: http://a"}, true},
		"another console": {console, map[string]string{"name": "fs", "token": "t"}, false},
		"another token":   {console, map[string]string{"name": "fs", "token": "u", "envs": "BASE_URL: http://a"}, false},
	} {
		if got := SameFileSystem(c.a, c.b); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}

func TestConfigNeeds(t *testing.T) {
	for text, want := range map[string]struct{ claim, node bool }{
		"":                                   {},
		"mountPodPatch: [{ceMountImage: a}]": {},
		"mountPodPatch: [{ceMountImage: a, pvcSelector: {matchName: a}}]": {claim: true},
		"mountPodPatch: [{}, {nodeSelector: {matchLabels: {a: b}}}]":      {node: true},
		"mountPodPatch: [{pvcSelector: {}}, {nodeSelector: {}}]":          {claim: true, node: true},
	} {
		config, err := ParseConfig([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if config.NeedsClaim() != want.claim || config.NeedsNode() != want.node {
			t.Errorf("%q: claim %t, node %t", text, config.NeedsClaim(), config.NeedsNode())
		}
	}
}
