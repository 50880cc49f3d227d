package manager

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/facts"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// told is what Kubernetes tells in a test.
type told struct {
	volume facts.Volume
	err    error
	asked  []facts.Request

	labels    map[string]string
	labelsErr error

	pod    *corev1.Pod
	podErr error
}

func (f *told) Volume(_ context.Context, request facts.Request) (facts.Volume, error) {
	f.asked = append(f.asked, request)
	return f.volume, f.err
}

func (f *told) App(context.Context, string, string) (*corev1.Pod, error) { return f.pod, f.podErr }

func (f *told) Labels() (map[string]string, error) { return f.labels, f.labelsErr }

// newLearning is a manager that runs, with these mounts.
func newLearning(t *testing.T, f *told, config string, mode volume.ShareMode, records ...store.Record) *Manager {
	t.Helper()
	parsed, err := volume.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	m := New(Options{
		Node: "n", KubeletDir: "/k", Defaults: volume.Defaults{ShareMode: mode},
		Config: func() (volume.Config, error) { return parsed, nil },
	}, Parts{Facts: f, Node: f, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	m.lifetime = t.Context()
	for _, record := range records {
		record.UniqueID = volume.SafeID(record.Inputs.VolumeID)
		made := newMount(m, record)
		m.mounts[record.ID] = made
		m.index.addMount(made, record)
	}
	return m
}

const (
	bySelector = `mountPodPatch: [{pvcSelector: {matchLabels: {a: b}}, ceMountImage: x}]`
	byNode     = `mountPodPatch: [{nodeSelector: {matchLabels: {a: b}}, ceMountImage: x}]`
)

func TestWhatCannotBeReadMattersWhenItIsNeeded(t *testing.T) {
	dynamic := map[string]string{"capacity": "1"}
	missing := errors.New("read PersistentVolume pv: forbidden")
	for name, c := range map[string]struct {
		told       told
		config     string
		mode       volume.ShareMode
		attributes map[string]string
		want       string
	}{
		"nothing needed":              {told{err: missing}, "", volume.ShareByVolume, dynamic, ""},
		"a node selector, all known":  {told{}, byNode, volume.ShareByVolume, nil, ""},
		"labels that nobody looks at": {told{labelsErr: errors.New("no node")}, bySelector, volume.ShareByVolume, nil, ""},
		"a claim selector":            {told{err: missing}, bySelector, volume.ShareByVolume, nil, "PersistentVolume pv"},
		"shared by class":             {told{err: missing}, "", volume.ShareByStorageClass, dynamic, "PersistentVolume pv"},
		"static, shared by class":     {told{err: missing}, "", volume.ShareByStorageClass, nil, ""},
		"shared by file system":       {told{err: missing}, "", volume.ShareByFileSystem, dynamic, ""},
		"a node selector":             {told{labelsErr: errors.New("no node n")}, byNode, volume.ShareByVolume, nil, "no node n"},
	} {
		m := newLearning(t, &c.told, c.config, c.mode)
		found, err := m.lookUp(t.Context(), PublishRequest{VolumeID: "v", TargetPath: "/k/t", Attributes: c.attributes})
		switch {
		case c.want == "" && (err != nil || !found.complete || found.node.Name != "n"):
			t.Errorf("%s: %+v, %v", name, found, err)
		case c.want != "" && (!errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want unavailable that names %q", name, err, c.want)
		}
	}
}

func TestAVolumeWithAMountIsKnownByIt(t *testing.T) {
	claim := volume.Object{Namespace: "ns", Name: "data", Labels: map[string]string{"a": "b"}}
	serving := store.Record{ID: "m", State: lifecycle.Serving, Inputs: volume.Inputs{
		VolumeID: "v", Claim: claim, StorageClass: "fast", Node: volume.Object{Name: "n", Labels: map[string]string{"old": "1"}},
		Defaults: volume.Defaults{ShareMode: volume.ShareByVolume},
	}, References: []store.Reference{{VolumeID: "w", TargetPath: "/k/w"}}}
	ended := serving
	ended.State = lifecycle.Draining
	unclaimed := serving
	unclaimed.Inputs.Claim = volume.Object{}
	for name, c := range map[string]struct {
		record store.Record
		mode   volume.ShareMode
		volume string
		want   []facts.Request
	}{
		"its mount serves":   {serving, volume.ShareByVolume, "v", nil},
		"it ends":            {ended, volume.ShareByVolume, "v", []facts.Request{{VolumeID: "v", TargetPath: "/k/t"}}},
		"without a claim":    {unclaimed, volume.ShareByVolume, "v", []facts.Request{{VolumeID: "v", TargetPath: "/k/t", Live: true}}},
		"shared otherwise":   {serving, volume.ShareByFileSystem, "v", []facts.Request{{VolumeID: "v", TargetPath: "/k/t", Live: true}}},
		"in another's mount": {serving, volume.ShareByVolume, "w", []facts.Request{{VolumeID: "w", TargetPath: "/k/t", Live: true}}},
		"an unknown volume":  {serving, volume.ShareByVolume, "x", []facts.Request{{VolumeID: "x", TargetPath: "/k/t"}}},
	} {
		f := &told{labels: map[string]string{"new": "1"}}
		m := newLearning(t, f, "", c.mode, c.record)
		found, err := m.lookUp(t.Context(), PublishRequest{VolumeID: c.volume, TargetPath: "/k/t"})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, f.asked); diff != "" {
			t.Errorf("%s: asked (-want +got):\n%s", name, diff)
		}
		if c.want == nil && (found.volume.Claim.Labels["a"] != "b" || found.node.Labels["old"] != "1") {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

func TestARepeatedPublishAsksNobody(t *testing.T) {
	f := &told{err: errors.New("away")}
	m := newLearning(t, f, bySelector, volume.ShareByVolume, store.Record{
		ID: "m", State: lifecycle.Serving, References: []store.Reference{{VolumeID: "v", TargetPath: "/k/t"}},
	})
	request := PublishRequest{VolumeID: "v", TargetPath: "/k/t"}
	found, err := m.lookUp(t.Context(), request)
	if err != nil || len(f.asked) != 0 {
		t.Errorf("asked %v, %v", f.asked, err)
	}
	// Its reference goes away before it is used.
	m.mounts, m.index = map[string]*mount{}, newIndex()
	if _, err := m.acquire(request, found, store.Reference{VolumeID: "v", TargetPath: "/k/t"}); !errdefs.IsAborted(err) {
		t.Errorf("acquire: %v", err)
	}
}

// The application's pod is asked for when the configuration takes something
// over from it, and only then.
func TestThePodIsReadWhereItIsNeeded(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "app"},
		Spec:       corev1.PodSpec{SchedulerName: "other"},
	}
	request := PublishRequest{VolumeID: "v", TargetPath: "/k/t", Pod: store.Pod{Namespace: "ns", Name: "app"}}
	for name, c := range map[string]struct {
		config        string
		err           error
		wantScheduler string
		wantErr       bool
	}{
		"needed":              {config: "enableNodeSelector: true", wantScheduler: "other"},
		"needed for shares":   {config: "mountPodPatch: [{resourcePercentages: {requests: {cpu: \"10\"}}}]", wantScheduler: "other"},
		"needed and not read": {config: "enableNodeSelector: true", err: errors.New("forbidden"), wantErr: true},
		"not needed":          {err: errors.New("nobody asks")},
	} {
		m := newLearning(t, &told{pod: pod, podErr: c.err}, c.config, volume.ShareByVolume)
		found, err := m.lookUp(t.Context(), request)
		if (err != nil) != c.wantErr || c.wantErr && !errdefs.IsUnavailable(err) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (found.app.SchedulerName != c.wantScheduler || found.app.Name != "app") {
			t.Errorf("%s: app %+v", name, found.app)
		}
	}
}
