package mountmgrtest

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
)

func testGetAndList(s *suite) {
	one := s.publish(s.request("list-one", "one")).GetMount()
	two := s.publish(s.request("list-two", "two")).GetMount()
	response, err := s.Client.GetMount(s.ctx, &mountmgrv1.GetMountRequest{Id: one.GetId()})
	if err != nil {
		s.Fatal(err)
	}
	reference := response.GetMount().GetReferences()[0]
	if reference.GetVolumeId() != "list-one" || reference.GetPod().GetUid() != "uid-one" || reference.GetTargetPath() != s.target("one") {
		s.Errorf("reference %v, want that of the request", reference)
	}
	_, err = s.Client.GetMount(s.ctx, &mountmgrv1.GetMountRequest{Id: "unknown"})
	s.wantCode("get of an unknown mount", err, codes.NotFound)
	tests := map[string]struct {
		request       *mountmgrv1.ListMountsRequest
		want, without string
	}{
		"by volume": {&mountmgrv1.ListMountsRequest{VolumeId: "list-one"}, one.GetId(), two.GetId()},
		"by pod":    {&mountmgrv1.ListMountsRequest{PodUid: "uid-two"}, two.GetId(), one.GetId()},
	}
	for name, test := range tests {
		ids := s.list(test.request)
		if !slices.Contains(ids, test.want) || slices.Contains(ids, test.without) {
			s.Errorf("list %s: %v, want %s and not %s", name, ids, test.want, test.without)
		}
	}
	all := s.list(&mountmgrv1.ListMountsRequest{})
	if !slices.Contains(all, one.GetId()) || !slices.Contains(all, two.GetId()) || !slices.IsSorted(all) {
		s.Errorf("list %v, want %s and %s in order", all, one.GetId(), two.GetId())
	}
}

func (s *suite) list(request *mountmgrv1.ListMountsRequest) []string {
	s.Helper()
	response, err := s.Client.ListMounts(s.ctx, request)
	if err != nil {
		s.Fatal(err)
	}
	ids := make([]string, 0, len(response.GetMounts()))
	for _, mount := range response.GetMounts() {
		ids = append(ids, mount.GetId())
	}
	return ids
}

func testWatch(s *suite) {
	before := s.publish(s.request("watch-before", "before")).GetMount()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	stream, err := s.Client.WatchMounts(ctx, &mountmgrv1.WatchMountsRequest{})
	if err != nil {
		s.Fatal(err)
	}
	present := s.presentMounts(stream)
	if count := present[before.GetId()]; count != 1 {
		s.Errorf("mount %s was sent %d times before the bookmark, want once", before.GetId(), count)
	}
	request := s.request("watch-after", "after")
	after := s.publish(request).GetMount()
	if first := s.next(stream, after.GetId()); first.GetType() != mountmgrv1.WatchMountsResponse_TYPE_ADDED {
		s.Errorf("first event of a new mount is %v, want ADDED", first.GetType())
	}
	s.unpublish(request)
	for {
		event := s.next(stream, after.GetId())
		if event.GetType() == mountmgrv1.WatchMountsResponse_TYPE_DELETED {
			if state := event.GetMount().GetState(); state != mountmgrv1.MountState_MOUNT_STATE_GONE {
				s.Errorf("state %v of a deleted mount, want gone", state)
			}
			break
		}
		if event.GetType() != mountmgrv1.WatchMountsResponse_TYPE_MODIFIED {
			s.Fatalf("event %v, want MODIFIED until DELETED", event.GetType())
		}
	}
	_, err = s.Client.GetMount(s.ctx, &mountmgrv1.GetMountRequest{Id: after.GetId()})
	s.wantCode("get of a deleted mount", err, codes.NotFound)
	cancel()
	for err == nil || stream.Context().Err() == nil {
		_, err = stream.Recv()
	}
}

type watchStream = grpc.ServerStreamingClient[mountmgrv1.WatchMountsResponse]

// presentMounts reads up to the bookmark and counts the mounts.
func (s *suite) presentMounts(stream watchStream) map[string]int {
	s.Helper()
	present := make(map[string]int)
	for {
		event, err := stream.Recv()
		if err != nil {
			s.Fatal(err)
		}
		switch event.GetType() {
		case mountmgrv1.WatchMountsResponse_TYPE_BOOKMARK:
			if event.GetMount() != nil {
				s.Error("the bookmark has a mount")
			}
			return present
		case mountmgrv1.WatchMountsResponse_TYPE_ADDED:
			present[event.GetMount().GetId()]++
		default:
			s.Fatalf("event %v before the bookmark, want ADDED", event.GetType())
		}
	}
}

// next waits for an event of one mount.
func (s *suite) next(stream watchStream, id string) *mountmgrv1.WatchMountsResponse {
	s.Helper()
	for {
		event, err := stream.Recv()
		if err != nil {
			s.Fatal(err)
		}
		if event.GetMount().GetId() == id {
			return event
		}
	}
}
