package server

import (
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/volume"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

func TestEveryValueHasItsOwnInTheContract(t *testing.T) {
	states := make(map[mountmgrv1.MountState]bool)
	for _, each := range lifecycle.States() {
		states[state(each)] = true
	}
	if want := len(mountmgrv1.MountState_name); len(states) != want-1 || states[mountmgrv1.MountState_MOUNT_STATE_UNSPECIFIED] {
		t.Errorf("states are told as %v", states)
	}
	phases := make(map[mountmgrv1.UpgradePhase]bool)
	for _, each := range store.UpgradePhases() {
		phases[phase(each)] = true
	}
	if want := len(mountmgrv1.UpgradePhase_name); len(phases) != want-1 || phases[mountmgrv1.UpgradePhase_UPGRADE_PHASE_UNSPECIFIED] {
		t.Errorf("phases are told as %v", phases)
	}
	modes := make(map[mountmgrv1.ShareMode]bool)
	for _, each := range []volume.ShareMode{volume.ShareByVolume, volume.ShareByStorageClass, volume.ShareByFileSystem} {
		modes[shareMode(each)] = true
	}
	if want := len(mountmgrv1.ShareMode_name); len(modes) != want-1 || modes[mountmgrv1.ShareMode_SHARE_MODE_UNSPECIFIED] {
		t.Errorf("share modes are told as %v", modes)
	}
}

func TestAccessMode(t *testing.T) {
	seen := make(map[store.AccessMode]bool)
	for number, name := range mountmgrv1.AccessMode_name {
		mode, err := accessMode(mountmgrv1.AccessMode(number))
		switch {
		case number == 0 && !errdefs.IsInvalidArgument(err):
			t.Errorf("%s: %v, want an invalid argument", name, err)
		case number != 0 && (err != nil || mode == "" || seen[mode]):
			t.Errorf("%s: %q, %v", name, mode, err)
		}
		seen[mode] = true
	}
	if !seen[store.SingleNodeSingleWriter] {
		t.Errorf("no mode is %s", store.SingleNodeSingleWriter)
	}
	if _, err := accessMode(99); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an unknown mode: %v, want an invalid argument", err)
	}
}

func TestReadOnly(t *testing.T) {
	for mode, want := range map[mountmgrv1.AccessMode]bool{
		mountmgrv1.AccessMode_ACCESS_MODE_MULTI_NODE_READER_ONLY:  true,
		mountmgrv1.AccessMode_ACCESS_MODE_SINGLE_NODE_READER_ONLY: true,
		mountmgrv1.AccessMode_ACCESS_MODE_MULTI_NODE_MULTI_WRITER: false,
	} {
		if got := readOnly(&mountmgrv1.PublishVolumeRequest{AccessMode: mode}); got != want {
			t.Errorf("%v: %v, want %v", mode, got, want)
		}
		if !readOnly(&mountmgrv1.PublishVolumeRequest{AccessMode: mode, ReadOnly: true}) {
			t.Errorf("%v is writable although read_only is set", mode)
		}
	}
}

func TestServes(t *testing.T) {
	record := store.Record{References: []store.Reference{
		{VolumeID: "v1", TargetPath: "/var/lib/kubelet/pods/u1/volumes/x/mount"},
		{VolumeID: "v2", TargetPath: "/elsewhere", Pod: store.Pod{UID: "u2"}},
	}}
	for _, c := range []struct {
		volumeID, podUID string
		want             bool
	}{
		{"", "", true}, {"v1", "", true}, {"v3", "", false},
		{"", "u1", true}, {"", "u2", true}, {"", "u", false}, {"", "u3", false},
		{"v1", "u1", true}, {"v2", "u1", false}, {"v1", "u2", false},
	} {
		if got := serves(record, c.volumeID, c.podUID); got != c.want {
			t.Errorf("volume %q, pod %q: %v, want %v", c.volumeID, c.podUID, got, c.want)
		}
	}
	if !serves(store.Record{}, "", "") || serves(store.Record{}, "v1", "") {
		t.Error("a mount without references is one of all, and of no volume")
	}
}

func TestView(t *testing.T) {
	since := time.Unix(5, 0).UTC()
	view := (&Server{namespace: "ns"}).view(store.Record{
		ID: "m", State: lifecycle.Recovering, StateSince: since, Reason: "ClientEnded", Message: "why", ReadOnly: true,
		Client:     store.Client{PodName: "p", Version: "1.4.2", SessionID: 7},
		References: []store.Reference{{VolumeID: "v", TargetPath: "/t", Since: since, Pod: store.Pod{Name: "app"}}},
	})
	if view.GetId() != "m" || view.GetState() != mountmgrv1.MountState_MOUNT_STATE_RECOVERING || !view.GetStateSince().AsTime().Equal(since) ||
		view.GetReason() != "ClientEnded" || view.GetMessage() != "why" || !view.GetReadOnly() {
		t.Errorf("view %v", view)
	}
	if client := view.GetClient(); client.GetPodNamespace() != "ns" || client.GetVersion() != "1.4.2" || client.GetSessionId() != 7 {
		t.Errorf("client %v", client)
	}
	if references := view.GetReferences(); len(references) != 1 || references[0].GetPod().GetName() != "app" {
		t.Errorf("references %v", references)
	}
	if view.GetSuccessor() != nil || view.GetUpgrade() != nil || view.GetCreatedAt() != nil || view.GetDeleteAt() != nil {
		t.Errorf("what is not there is told: %v", view)
	}
}

func TestKindOfAChange(t *testing.T) {
	sent := map[string]bool{"old": true}
	for _, c := range []struct {
		id    string
		state lifecycle.State
		want  mountmgrv1.WatchMountsResponse_Type
	}{
		{"old", lifecycle.Serving, mountmgrv1.WatchMountsResponse_TYPE_MODIFIED},
		{"new", lifecycle.Pending, mountmgrv1.WatchMountsResponse_TYPE_ADDED},
		{"new", lifecycle.Starting, mountmgrv1.WatchMountsResponse_TYPE_MODIFIED},
		{"new", lifecycle.Gone, mountmgrv1.WatchMountsResponse_TYPE_DELETED},
		{"new", lifecycle.Pending, mountmgrv1.WatchMountsResponse_TYPE_ADDED},
	} {
		if got := kind(sent, store.Record{ID: c.id, State: c.state}); got != c.want {
			t.Errorf("%s %s: %v, want %v", c.id, c.state, got, c.want)
		}
	}
}
