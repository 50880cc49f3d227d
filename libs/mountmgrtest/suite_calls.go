package mountmgrtest

import (
	"google.golang.org/grpc/codes"

	"github.com/juicefs-csi/driver/libs/apiversion"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
)

func testHandshake(s *suite) {
	ours := apiversion.MountManager()
	response, err := s.Client.Handshake(s.ctx, &mountmgrv1.HandshakeRequest{
		Version: ours.Version, MinVersion: ours.MinVersion, Client: "mountmgrtest",
	})
	if err != nil {
		s.Fatal(err)
	}
	if err := ours.Check(apiversion.Range{Version: response.GetVersion(), MinVersion: response.GetMinVersion()}); err != nil {
		s.Error(err)
	}
	if response.GetNodeName() == "" || response.GetRelease() == "" {
		s.Errorf("handshake %v: no node name or no release", response)
	}
	if response.GetMaxCrashProtection() == mountmgrv1.CrashProtection_CRASH_PROTECTION_UNSPECIFIED {
		s.Error("handshake tells no crash protection")
	}
	if !response.GetReady() {
		s.Error("not ready")
	}
}

func testHandshakeVersions(s *suite) {
	ours := apiversion.MountManager()
	_, err := s.Client.Handshake(s.ctx, &mountmgrv1.HandshakeRequest{Version: ours.Version + 100, MinVersion: ours.Version + 100})
	s.wantCode("handshake of a newer peer", err, codes.FailedPrecondition)
	_, err = s.Client.Handshake(s.ctx, &mountmgrv1.HandshakeRequest{Version: ours.MinVersion - 1, MinVersion: 0})
	s.wantCode("handshake of an older peer", err, codes.FailedPrecondition)
}

func testPublishTwice(s *suite) {
	request := s.request("twice", "twice")
	first := s.publish(request)
	if !first.GetCreated() {
		s.Error("the first publish did not create a mount")
	}
	if state := first.GetMount().GetState(); state != mountmgrv1.MountState_MOUNT_STATE_SERVING {
		s.Errorf("state %v after publish, want serving", state)
	}
	second := s.publish(request)
	if second.GetCreated() {
		s.Error("the second publish created a mount")
	}
	if got, want := second.GetMount().GetId(), first.GetMount().GetId(); got != want {
		s.Errorf("the second publish gave mount %s, want %s", got, want)
	}
	if count := len(second.GetMount().GetReferences()); count != 1 {
		s.Errorf("%d references after two equal publishes, want 1", count)
	}
}

func testPublishShares(s *suite) {
	first := s.publish(s.request("shared", "one"))
	second := s.publish(s.request("shared", "two"))
	if got, want := second.GetMount().GetId(), first.GetMount().GetId(); got != want || second.GetCreated() {
		s.Errorf("the second target got mount %s (created %v), want %s", got, second.GetCreated(), want)
	}
	s.unpublish(s.request("shared", "one"))
	response, err := s.Client.GetMount(s.ctx, &mountmgrv1.GetMountRequest{Id: first.GetMount().GetId()})
	if err != nil {
		s.Fatal(err)
	}
	references := response.GetMount().GetReferences()
	if len(references) != 1 || references[0].GetTargetPath() != s.target("two") {
		s.Errorf("references %v, want that of target two alone", references)
	}
}

func testPublishOther(s *suite) {
	published := s.publish(s.request("kept", "kept"))
	_, err := s.Client.PublishVolume(s.ctx, s.request("other", "kept"))
	s.wantCode("publish of another volume at the same target", err, codes.AlreadyExists, codes.FailedPrecondition)
	readOnly := s.request("kept", "kept")
	readOnly.ReadOnly = true
	_, err = s.Client.PublishVolume(s.ctx, readOnly)
	s.wantCode("publish of the same volume read-only", err, codes.AlreadyExists)
	response, err := s.Client.GetMount(s.ctx, &mountmgrv1.GetMountRequest{Id: published.GetMount().GetId()})
	if err != nil {
		s.Fatal(err)
	}
	if count := len(response.GetMount().GetReferences()); count != 1 {
		s.Errorf("%d references after refused publishes, want 1", count)
	}
}

func testPublishSingleWriter(s *suite) {
	single := func(target string) *mountmgrv1.PublishVolumeRequest {
		request := s.request("single", target)
		request.AccessMode = mountmgrv1.AccessMode_ACCESS_MODE_SINGLE_NODE_SINGLE_WRITER
		return request
	}
	s.publish(single("one"))
	_, err := s.Client.PublishVolume(s.ctx, single("two"))
	s.wantCode("publish of a single-writer volume at a second target", err, codes.FailedPrecondition)
	s.unpublish(single("one"))
	s.publish(single("two"))
}

func testPublishInvalid(s *suite) {
	tests := map[string]func(*mountmgrv1.PublishVolumeRequest){
		"no volume id":     func(r *mountmgrv1.PublishVolumeRequest) { r.VolumeId = "" },
		"no target":        func(r *mountmgrv1.PublishVolumeRequest) { r.TargetPath = "" },
		"relative target":  func(r *mountmgrv1.PublishVolumeRequest) { r.TargetPath = "some/path" },
		"target with dots": func(r *mountmgrv1.PublishVolumeRequest) { r.TargetPath = s.TargetDir + "/../../../target" },
		"target elsewhere": func(r *mountmgrv1.PublishVolumeRequest) { r.TargetPath = "/somewhere/else" },
		"no access mode":   func(r *mountmgrv1.PublishVolumeRequest) { r.AccessMode = 0 },
		"dots at the end":  func(r *mountmgrv1.PublishVolumeRequest) { r.TargetPath += "/.." },
		"slash at the end": func(r *mountmgrv1.PublishVolumeRequest) { r.TargetPath += "/" },
		"the directory itself": func(r *mountmgrv1.PublishVolumeRequest) {
			r.TargetPath = "/"
		},
	}
	for name, change := range tests {
		request := s.request("invalid", "invalid")
		change(request)
		_, err := s.Client.PublishVolume(s.ctx, request)
		s.wantCode("publish with "+name, err, codes.InvalidArgument)
	}
}

func testUnpublishTwice(s *suite) {
	request := s.request("gone", "gone")
	s.publish(request)
	s.unpublish(request)
	s.unpublish(request)
	s.unpublish(s.request("never-published", "never-published"))
}

func testUnpublishInvalid(s *suite) {
	tests := map[string]*mountmgrv1.UnpublishVolumeRequest{
		"no volume id":     {TargetPath: s.target("target")},
		"no target":        {VolumeId: "invalid"},
		"relative target":  {VolumeId: "invalid", TargetPath: "some/path"},
		"target elsewhere": {VolumeId: "invalid", TargetPath: "/somewhere/else"},
	}
	for name, request := range tests {
		_, err := s.Client.UnpublishVolume(s.ctx, request)
		s.wantCode("unpublish with "+name, err, codes.InvalidArgument)
	}
}

func testStats(s *suite) {
	request := s.request("stats", "stats")
	s.publish(request)
	response, err := s.Client.GetVolumeStats(s.ctx, &mountmgrv1.GetVolumeStatsRequest{
		VolumeId: request.GetVolumeId(), VolumePath: request.GetTargetPath(),
	})
	if err != nil {
		s.Fatal(err)
	}
	if response.GetAbnormal() || response.GetBytes().GetTotal() <= 0 || response.GetInodes().GetTotal() <= 0 {
		s.Errorf("stats %v, want positive totals", response)
	}
	tests := map[string]struct {
		volume, path string
		want         codes.Code
	}{
		"unknown path":          {"stats", s.target("unknown"), codes.NotFound},
		"relative path":         {"stats", "some/path", codes.NotFound},
		"another volume's path": {"another", request.GetTargetPath(), codes.NotFound},
		"no volume":             {"", request.GetTargetPath(), codes.InvalidArgument},
		"no path":               {"stats", "", codes.InvalidArgument},
	}
	for name, test := range tests {
		_, err := s.Client.GetVolumeStats(s.ctx, &mountmgrv1.GetVolumeStatsRequest{VolumeId: test.volume, VolumePath: test.path})
		s.wantCode("stats of "+name, err, test.want)
	}
}

func testUpgradeUnknown(s *suite) {
	_, err := s.Client.PlanUpgrade(s.ctx, &mountmgrv1.PlanUpgradeRequest{
		MountId: "unknown", Method: mountmgrv1.UpgradeMethod_UPGRADE_METHOD_RECREATE,
	})
	s.wantCode("plan", err, codes.NotFound)
	stream, err := s.Client.UpgradeMount(s.ctx, &mountmgrv1.UpgradeMountRequest{
		MountId: "unknown", Method: mountmgrv1.UpgradeMethod_UPGRADE_METHOD_RECREATE,
	})
	if err == nil {
		_, err = stream.Recv()
	}
	s.wantCode("upgrade", err, codes.NotFound)
	_, err = s.Client.AbortUpgrade(s.ctx, &mountmgrv1.AbortUpgradeRequest{MountId: "unknown", UpgradeId: "unknown"})
	s.wantCode("abort", err, codes.NotFound)
}
