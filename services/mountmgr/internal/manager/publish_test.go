package manager

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

func newIdle(kubeletDir string) *Manager {
	return New(Options{KubeletDir: kubeletDir}, Parts{})
}

func TestCheckTarget(t *testing.T) {
	for target, want := range map[string]string{
		"/var/lib/kubelet/pods/u/volumes/mount": "",
		"":                                      "is empty",
		"pods/u":                                "is not an absolute, clean path",
		"/var/lib/kubelet/../etc":               "is not an absolute, clean path",
		"/var/lib/kubelet/pods/..":              "is not an absolute, clean path",
		"/var/lib/kubelet/pods/":                "is not an absolute, clean path",
		"/var/lib/kubelet//pods":                "is not an absolute, clean path",
		"/var/lib/kubelet":                      "is not below the kubelet directory",
		"/var/lib/kubelet2/pods":                "is not below the kubelet directory",
		"/etc":                                  "is not below the kubelet directory",
		"/":                                     "is not below the kubelet directory",
	} {
		for _, kubeletDir := range []string{"/var/lib/kubelet", "/var/lib/kubelet/"} {
			err := newIdle(kubeletDir).checkTarget(target)
			switch {
			case want == "" && err != nil:
				t.Errorf("%q: %v", target, err)
			case want != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want)):
				t.Errorf("%q: %v, want an invalid argument that %s", target, err, want)
			}
		}
	}
}

func TestOneCallWorksOnATarget(t *testing.T) {
	m := newIdle("/k")
	unlock, err := m.lockTarget("/k/t")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.lockTarget("/k/t"); !errdefs.IsAborted(err) {
		t.Errorf("a second call: %v, want aborted", err)
	}
	if other, err := m.lockTarget("/k/other"); err != nil {
		t.Error(err)
	} else {
		other()
	}
	unlock()
	again, err := m.lockTarget("/k/t")
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestNothingIsPublishedBeforeRun(t *testing.T) {
	m := newIdle("/k")
	_, _, err := m.Publish(t.Context(), PublishRequest{VolumeID: "v", TargetPath: "/k/t"})
	if !errdefs.IsUnavailable(err) {
		t.Errorf("Publish = %v, want unavailable", err)
	}
	if err := m.Ready(); !errdefs.IsUnavailable(err) {
		t.Errorf("Ready = %v, want unavailable", err)
	}
}

func TestConflict(t *testing.T) {
	const shared, single = store.AccessMode("MULTI_NODE_MULTI_WRITER"), store.SingleNodeSingleWriter
	reference := func(volume, target string, mode store.AccessMode, readOnly bool) store.Reference {
		return store.Reference{VolumeID: volume, TargetPath: target, AccessMode: mode, ReadOnly: readOnly}
	}
	none := func(err error) bool { return err == nil }
	for name, c := range map[string]struct {
		existing, wanted store.Reference
		is               func(error) bool
	}{
		"the same again":         {reference("v", "/t", shared, false), reference("v", "/t", shared, false), none},
		"a single one again":     {reference("v", "/t", single, false), reference("v", "/t", single, false), none},
		"another target":         {reference("v", "/t", shared, false), reference("v", "/u", shared, true), none},
		"another volume":         {reference("v", "/t", shared, false), reference("w", "/u", single, false), none},
		"stored without mode":    {reference("v", "/t", "", false), reference("v", "/t", shared, false), none},
		"another volume there":   {reference("v", "/t", shared, false), reference("w", "/t", shared, false), errdefs.IsAlreadyExists},
		"read-only there":        {reference("v", "/t", shared, false), reference("v", "/t", shared, true), errdefs.IsAlreadyExists},
		"another mode there":     {reference("v", "/t", shared, false), reference("v", "/t", single, false), errdefs.IsAlreadyExists},
		"single and one more":    {reference("v", "/t", single, false), reference("v", "/u", single, false), errdefs.IsFailedPrecondition},
		"single and a shared":    {reference("v", "/t", single, false), reference("v", "/u", shared, false), errdefs.IsFailedPrecondition},
		"shared and then single": {reference("v", "/t", shared, false), reference("v", "/u", single, false), errdefs.IsFailedPrecondition},
	} {
		if err := conflict(c.existing, c.wanted); !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAWatchMissesNothingAndTellsNothingTwice(t *testing.T) {
	m := newIdle("/k")
	tell := func(id string, state lifecycle.State) { m.watch.changed(store.Record{ID: id, State: state}) }
	tell("b", lifecycle.Serving)
	tell("a", lifecycle.Serving)
	tell("gone", lifecycle.Serving)
	tell("gone", lifecycle.Gone)
	present, changes, stop := m.Watch()
	if len(present) != 2 || present[0].ID != "a" || present[1].ID != "b" {
		t.Errorf("present: %v, want a and b", present)
	}
	tell("a", lifecycle.Recovering)
	if change := <-changes; change.ID != "a" || change.State != lifecycle.Recovering {
		t.Errorf("change %v", change)
	}
	select {
	case change := <-changes:
		t.Errorf("a further change %v", change)
	default:
	}
	stop()
	stop()
	if _, open := <-changes; open {
		t.Error("the channel is open after the end")
	}
	tell("a", lifecycle.Serving) // Nobody listens.
}

func TestASlowWatcherIsEnded(t *testing.T) {
	m := newIdle("/k")
	_, changes, stop := m.Watch()
	defer stop()
	for range watchBacklog + 1 {
		m.watch.changed(store.Record{ID: "a", State: lifecycle.Serving})
	}
	count := 0
	for range changes {
		count++
	}
	if count != watchBacklog {
		t.Errorf("%d changes before the end, want %d", count, watchBacklog)
	}
}
