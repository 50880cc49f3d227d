package api_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	dashboardv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/dashboard/v1"
	"github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/dashboard/v1/dashboardv1connect"
	"github.com/juicefs-csi/driver/services/dashboard/internal/access"
	"github.com/juicefs-csi/driver/services/dashboard/internal/api"
	"github.com/juicefs-csi/driver/services/dashboard/internal/catalog"
)

const driver = "csi.juicefs.com"

func TestListAppPods(t *testing.T) {
	t.Parallel()
	client := serve(t, access.Open(), cluster()...)
	response, err := client.ListAppPods(t.Context(), connect.NewRequest(&dashboardv1.ListAppPodsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range response.Msg.GetPods() {
		var mounts []string
		for _, m := range p.GetMountPods() {
			mounts = append(mounts, m.GetName())
		}
		got = append(got, fmt.Sprintf("%s/%s %s %s[%s] csi=%s problem=%q", p.GetNamespace(), p.GetName(), p.GetStatus(),
			p.GetVolumes()[0].GetClaim(), strings.Join(mounts, " "), p.GetCsiNode().GetName(), p.GetProblem()))
	}
	want := []string{
		`team-b/waiting Pending unbound[] csi= problem="claim unbound is not bound to a volume"`,
		`team-a/new Running data[juicefs-n1-pv-a] csi=csi-node-1 ` +
			`problem="mount pod juicefs-n1-pv-a: container jfs-mount: exit code 1: wrong password"`,
		`team-a/old Running data[] csi= problem=""`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if response.Msg.GetTotal() != 3 || response.Msg.GetNextPageToken() != "" {
		t.Errorf("total %d, next %q", response.Msg.GetTotal(), response.Msg.GetNextPageToken())
	}
}

func TestListMountPods(t *testing.T) {
	t.Parallel()
	client := serve(t, access.Open(), cluster()...)
	for node, want := range map[string]int{"": 1, "n1": 1, "n2": 0} {
		response, err := client.ListMountPods(t.Context(), connect.NewRequest(&dashboardv1.ListMountPodsRequest{Node: node}))
		if err != nil {
			t.Fatal(err)
		}
		pods := response.Msg.GetPods()
		if len(pods) != want {
			t.Fatalf("node %q: %d pods, want %d", node, len(pods), want)
		}
		if want == 1 && (pods[0].GetUniqueId() != "pv-a" || pods[0].GetImage() != "mount:1" || pods[0].GetAppPods()[0].GetName() != "new") {
			t.Errorf("unexpected %v", pods[0])
		}
	}
}

// A user sees the pods of the namespaces that Kubernetes lets them list.
func TestRights(t *testing.T) {
	t.Parallel()
	gate := access.NewGate(func(_ context.Context, token, namespace string) (bool, error) {
		return slices.Contains(strings.Split(token, "+"), namespace), nil
	}, time.Now)
	client := serve(t, gate, cluster()...)
	apps := func(token, namespace string) ([]*dashboardv1.AppPod, error) {
		request := connect.NewRequest(&dashboardv1.ListAppPodsRequest{Namespace: namespace})
		if token != "" {
			request.Header().Set("Authorization", "Bearer "+token)
		}
		response, err := client.ListAppPods(t.Context(), request)
		if err != nil {
			return nil, err
		}
		return response.Msg.GetPods(), nil
	}
	if _, err := apps("", ""); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("without a token: %v", err)
	}
	if _, err := apps("team-a", ""); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("all namespaces: %v", err)
	}
	if pods, err := apps("team-a", "team-a"); err != nil || len(pods) != 2 {
		t.Errorf("own namespace: %d pods, %v", len(pods), err)
	}
	for token, want := range map[string]int{"kube-system": 0, "kube-system+team-a": 1} {
		request := connect.NewRequest(&dashboardv1.ListMountPodsRequest{})
		request.Header().Set("Authorization", "Bearer "+token)
		response, err := client.ListMountPods(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(response.Msg.GetPods()[0].GetAppPods()); got != want {
			t.Errorf("%s: %d application pods are named, want %d", token, got, want)
		}
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	objects := []runtime.Object{volume("pv", driver), claim("ns", "data", "pv")}
	const pods = 25
	for i := range pods { // three of each second
		objects = append(objects, app("ns", fmt.Sprintf("p%02d", i), int64(i/3), "data", ""))
	}
	client := serve(t, access.Open(), objects...)
	seen := map[string]bool{}
	token, last := "", time.Unix(1<<40, 0)
	for page := 0; ; page++ {
		response, err := client.ListAppPods(t.Context(), connect.NewRequest(&dashboardv1.ListAppPodsRequest{PageSize: 4, PageToken: token}))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range response.Msg.GetPods() {
			if seen[p.GetName()] {
				t.Errorf("%s came twice", p.GetName())
			}
			seen[p.GetName()] = true
			if p.GetCreatedAt().AsTime().After(last) {
				t.Errorf("%s is newer than the one before", p.GetName())
			}
			last = p.GetCreatedAt().AsTime()
		}
		if token = response.Msg.GetNextPageToken(); token == "" {
			break
		}
		if page > pods {
			t.Fatal("pages do not end")
		}
	}
	if len(seen) != pods {
		t.Errorf("%d of %d pods", len(seen), pods)
	}
	for _, wrong := range []*dashboardv1.ListAppPodsRequest{{PageSize: -1}, {PageToken: "x"}, {PageToken: "MTIz"}} {
		if _, err := client.ListAppPods(t.Context(), connect.NewRequest(wrong)); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%v: %v", wrong, err)
		}
	}
}

// The browser's page sends plain JSON.
func TestJSON(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newHandler(t, access.Open(), cluster()...))
	t.Cleanup(server.Close)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		server.URL+dashboardv1connect.DashboardServiceGetServerInfoProcedure, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s %s", response.Status, response.Header.Get("Content-Type"))
	}
}

func serve(t *testing.T, gate *access.Gate, objects ...runtime.Object) dashboardv1connect.DashboardServiceClient {
	t.Helper()
	server := httptest.NewServer(newHandler(t, gate, objects...))
	t.Cleanup(server.Close)
	return dashboardv1connect.NewDashboardServiceClient(server.Client(), server.URL)
}

func newHandler(t *testing.T, gate *access.Gate, objects ...runtime.Object) http.Handler {
	t.Helper()
	pods, err := catalog.New(fake.NewClientset(objects...), driver, "kube-system")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- pods.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for pods.Ready(ctx) != nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the catalog is never ready")
		}
	}
	_, handler := dashboardv1connect.NewDashboardServiceHandler(
		&api.Service{Catalog: pods, Gate: gate, Release: "v0", MountNamespace: "kube-system"},
		connect.WithInterceptors(api.NewObserver(slog.New(slog.DiscardHandler), prometheus.NewRegistry())))
	return handler
}

// cluster has two pods of one claim, one of them served by a mount pod that
// failed, a pod whose claim is not bound, and pods that do not use JuiceFS.
func cluster() []runtime.Object {
	waiting := app("team-b", "waiting", 30, "unbound", "")
	waiting.Status.Phase = corev1.PodPending
	unbound := claim("team-b", "unbound", "")
	unbound.Spec.StorageClassName = new("jfs")
	mount := app("kube-system", "juicefs-n1-pv-a", 5, "", "n1")
	mount.Labels = map[string]string{"app.kubernetes.io/name": "juicefs-mount", "volume-id": "pv-a"}
	mount.Annotations = map[string]string{"juicefs-1": "/var/lib/kubelet/pods/team-a-new/volumes/kubernetes.io~csi/pv-a/mount"}
	mount.Spec.Containers = []corev1.Container{{Name: "jfs-mount", Image: "mount:1"}}
	mount.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "jfs-mount", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: "wrong password"},
	}}}
	node := app("kube-system", "csi-node-1", 1, "", "n1")
	node.Labels = map[string]string{"app": "juicefs-csi-node"}
	return []runtime.Object{
		app("team-a", "old", 10, "data", ""), app("team-a", "new", 20, "data", "n1"), waiting,
		app("team-a", "plain", 40, "", "n1"), app("team-a", "disk", 50, "disk", "n1"),
		claim("team-a", "data", "pv-a"), claim("team-a", "disk", "pv-d"), unbound,
		volume("pv-a", driver), volume("pv-d", "disk.example.com"),
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "jfs"}, Provisioner: driver},
		mount, node,
	}
}

func app(namespace, name string, second int64, claim, node string) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID(namespace + "-" + name),
			CreationTimestamp: metav1.NewTime(time.Unix(second, 0)),
		},
		Spec:   corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if claim != "" {
		pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
		}}}
	}
	return pod
}

func claim(namespace, name, volumeName string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: volumeName},
	}
}

func volume(name, driver string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{
			CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: name},
		}},
	}
}
