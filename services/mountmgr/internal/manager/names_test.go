package manager

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestPathNameIsOneComponent(t *testing.T) {
	long := strings.Repeat("x", 300)
	seen := make(map[string]string)
	for _, uniqueID := range []string{
		"pv-1", "pvc-0a1b2c3d", "a/b", "a-b", "..", ".", "../../etc", ".hidden", "a\nb", "a\x7fb", long, long + "y", "日本語", "with space",
	} {
		name := pathName(uniqueID)
		if name == "" || name == "." || name == ".." || filepath.Base(name) != name || len(name) > 255-1-suffixLen ||
			strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) || strings.HasPrefix(name, ".") {
			t.Errorf("pathName(%q) = %q", uniqueID, name)
		}
		if other, double := seen[name]; double {
			t.Errorf("%q and %q have the name %q", uniqueID, other, name)
		}
		seen[name] = uniqueID
	}
	if got := pathName("pvc-0a1b"); got != "pvc-0a1b" {
		t.Errorf("a plain id becomes %q", got)
	}
}

func TestRandomNames(t *testing.T) {
	suffix := regexp.MustCompile(`^[a-z]{6}$`)
	ids, suffixes := make(map[string]bool), make(map[string]bool)
	for range 100 {
		if s := randomSuffix(); suffix.MatchString(s) {
			suffixes[s] = true
		} else {
			t.Errorf("suffix %q", s)
		}
		ids[randomID()] = true
	}
	if len(ids) != 100 || len(suffixes) < 95 {
		t.Errorf("%d ids and %d suffixes of 100 differ", len(ids), len(suffixes))
	}
}
