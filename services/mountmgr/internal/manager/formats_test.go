package manager

import (
	"testing"

	"github.com/juicefs-csi/driver/libs/volume"
)

func TestAFileSystemIsFormattedOnceForItsSettings(t *testing.T) {
	settings := func(secretKey string) volume.Settings {
		return volume.Settings{
			Stages: []volume.Stage{{Name: "reach"}, {Name: volume.StageFormat, Argv: []string{"juicefs", "format", "m", "n"}}, {Name: "quota"}},
			Env:    []volume.EnvVar{{Name: "SECRET_KEY", Value: secretKey}},
		}
	}
	var f formats
	names := func(s volume.Settings) string {
		pending, _ := f.pending(s)
		all := ""
		for _, stage := range pending.Stages {
			all += stage.Name + " "
		}
		return all
	}
	const all, rest = "reach format quota ", "reach quota "
	if got := names(settings("a")); got != all {
		t.Errorf("the first time: %s", got)
	}
	f.note(settings("a"))
	if got := names(settings("a")); got != rest {
		t.Errorf("the second time: %s", got)
	}
	if got := names(settings("b")); got != all {
		t.Errorf("with another secret: %s", got)
	}
	f.forget(settings("a"))
	if got := names(settings("a")); got != all {
		t.Errorf("forgotten: %s", got)
	}
	if _, left := f.pending(volume.Settings{Stages: []volume.Stage{{Name: "auth"}}}); left {
		t.Error("another stage was left out")
	}
}
