package manager

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

func TestASeriesOfReplacementsIsDelayed(t *testing.T) {
	now := time.Unix(1000, 0)
	var p pace
	for i, want := range []float64{0, 1, 2, 4, 8, 16, 30, 30, 30} {
		if got := p.handOver(now).Seconds(); got != want {
			t.Errorf("replacement %d waits %v s, want %v s", i, got, want)
		}
		p.serves(now)
		now = now.Add(steadyTime - time.Second)
		p.serves(now) // It serves on.
	}
	now = now.Add(time.Second)
	if got := p.handOver(now); got != 0 {
		t.Errorf("after a minute of serving the next one waits %v", got)
	}
	if got := p.handOver(now); got != time.Second {
		t.Errorf("the one after it waits %v", got)
	}
}

func TestRecoveriesComeAtOnceForAWhileWhateverWasPlanned(t *testing.T) {
	var p pace
	for range 10 {
		p.handOver(time.Unix(1000, 0))
	}
	for i, want := range []float64{0, 0, 0, 0, 0, 1, 2} {
		if got := p.recovery(time.Unix(1000, 0), freeRecoveries).Seconds(); got != want {
			t.Errorf("replacement %d waits %v s, want %v s", i, got, want)
		}
	}
}

func TestTheMirrorChangesOnlyWhatIsItsOwn(t *testing.T) {
	key := mountpod.ReferenceKey
	record := store.Record{
		References: []store.Reference{{TargetPath: "/kept"}, {TargetPath: "/new"}}, FileSystemUUID: "u",
	}
	present := map[string]string{
		key("/kept"): "/kept", key("/old"): "/old", "juicefs-delete-at": "2026-01-01T00:00:00Z", "juicefs-delete-delay": "5m",
		"juicefs-uniqueid": "pv-1", "theirs": "/old", "juicefs-theirs": "/old",
	}
	target, uuid := "/new", "u"
	want := map[string]*string{key("/old"): nil, key("/new"): &target, "juicefs-delete-at": nil, "juicefs-uuid": &uuid}
	if diff := cmp.Diff(want, difference(mirrored(&record), present)); diff != "" {
		t.Error(diff)
	}
	record = store.Record{DeleteAt: time.Unix(1000, 0).UTC()}
	at := "1970-01-01T00:16:40Z"
	if diff := cmp.Diff(map[string]*string{"juicefs-delete-at": &at}, difference(mirrored(&record), nil)); diff != "" {
		t.Error(diff)
	}
}
