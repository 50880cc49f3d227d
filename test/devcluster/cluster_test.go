//go:build devcluster

// The tests of this file start a real cluster, with the fixed addresses, so
// no other may run in this network namespace:
//
//	go test -tags devcluster -v ./devcluster

package devcluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

const (
	testDir     = "/var/lib/juicefs-devcluster-test"
	testImage   = "devcluster.invalid/busybox:v1"
	testTimeout = time.Minute
)

func testOptions() Options {
	return Options{Nodes: 2, Dir: testDir, CacheDir: DefaultCacheDir(os.Getenv), Redis: true}
}

// testWriter shows progress in the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// world is a running cluster with two pods, on node-1 and node-2, and a
// Service before the first.
type world struct {
	*Cluster
	client kubernetes.Interface
	a, b   *corev1.Pod
}

func TestCluster(t *testing.T) {
	before := takeTraces(t)
	c, err := Up(t.Context(), testOptions(), testWriter{t})
	t.Cleanup(func() { _ = Down(context.Background(), testDir, nil) })
	if err != nil {
		t.Fatal(err)
	}
	client, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "busybox.tar")
	writeBusybox(t, archive)
	if err := c.LoadImage(t.Context(), archive); err != nil {
		t.Fatal(err)
	}
	w := &world{Cluster: c, client: client}
	w.a, w.b = w.startPod(t, "a", "node-1"), w.startPod(t, "b", "node-2")

	t.Run("second up returns at once", func(t *testing.T) {
		if _, err := Up(t.Context(), testOptions(), nil); err != nil {
			t.Error(err)
		}
	})
	t.Run("network", w.testNetwork)
	t.Run("logs and exec", w.testLogsAndExec)
	t.Run("kubelet API asks the API server", w.testKubeletAPI)
	t.Run("mounts of a container reach its node once", w.testPropagation)
	t.Run("audit log", w.testAuditLog)
	t.Run("restarts", w.testRestarts)
	namespaces := map[string]namespaceID{}
	for _, name := range []string{controlPlaneName, "node-1", "node-2"} {
		for kind, id := range c.layout.machine(name).ids() {
			namespaces[name+" "+kind] = id
		}
	}
	t.Run("down with stuck FUSE mount and immutable file", w.testDown)
	before.compare(t)
	checkNamespaces(t, namespaces)
}

func TestDownAfterInterruptedUp(t *testing.T) {
	before := takeTraces(t)
	for _, after := range []time.Duration{200 * time.Millisecond, time.Second, 4 * time.Second} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		_, err := Up(ctx, testOptions(), nil)
		cancel()
		if err == nil {
			t.Fatalf("up was not interrupted after %v", after)
		}
		if err := Down(t.Context(), testDir, nil); err != nil {
			t.Errorf("down after %v: %v", after, err)
		}
		before.compare(t)
	}
	if err := Down(t.Context(), testDir, nil); err != nil {
		t.Errorf("down without a cluster: %v", err)
	}
}

func writeBusybox(t *testing.T, archive string) {
	t.Helper()
	image := Image{
		Name: testImage, Files: map[string]string{"bin/busybox": "/bin/busybox"},
		Links: map[string]string{}, Dirs: []string{"tmp"},
	}
	for _, applet := range []string{"sh", "sleep", "ping", "wget", "httpd", "mount", "mkdir", "nc", "echo"} {
		image.Links["bin/"+applet] = "/bin/busybox"
	}
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Write(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func testPod(name, node string, command ...string) *corev1.Pod {
	grace := int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeSelector:                  map[string]string{corev1.LabelHostname: node},
			TerminationGracePeriodSeconds: &grace,
			Containers:                    []corev1.Container{{Name: "c", Image: testImage, Command: command}},
		},
	}
}

func (w *world) startPod(t *testing.T, name, node string) *corev1.Pod {
	t.Helper()
	pod := testPod(name, node, "/bin/sh", "-c",
		"mkdir -p /www; echo page of "+name+" > /www/index.html; echo log of "+name+"; exec httpd -f -p 8080 -h /www")
	return w.create(t, pod)
}

func (w *world) create(t *testing.T, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	if _, err := w.client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return w.await(t, pod.Name, func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodRunning && p.Status.ContainerStatuses[0].Ready
	})
}

func (w *world) await(t *testing.T, name string, done func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	var pod *corev1.Pod
	err := poll(ctx, 100*time.Millisecond, func() (bool, error) {
		var err error
		pod, err = w.client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		return err == nil && done(pod), err
	})
	if err != nil {
		t.Fatalf("pod %s: %v; last %+v", name, err, pod.Status)
	}
	return pod
}

func (w *world) exec(t *testing.T, pod string, argv ...string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	err := w.Kubectl(t.Context(), Streams{Out: &out, Err: &errOut}, append([]string{"exec", pod, "--"}, argv...)...)
	if err != nil {
		t.Fatalf("exec %v in %s: %v: %s", argv, pod, err, errOut.String())
	}
	return out.String()
}

func (w *world) testNetwork(t *testing.T) {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "a"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "a"},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	service, err := w.client.CoreV1().Services("default").Create(t.Context(), service, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.exec(t, "a", "ping", "-c", "1", "-W", "5", w.b.Status.PodIP)
	w.exec(t, "b", "ping", "-c", "1", "-W", "5", w.a.Status.PodIP)
	w.exec(t, "b", "ping", "-c", "1", "-W", "5", HostIP)
	w.exec(t, "b", "nc", "-w", "5", ControlPlaneIP, "6379", "-e", "/bin/echo", "PING") // Redis
	w.exec(t, "b", "nc", "-w", "5", apiServiceIP, "443", "-e", "/bin/echo")
	for _, pod := range []string{"a", "b"} { // a reaches itself by way of the Service
		poll10(t, "Service from pod "+pod, func() bool {
			var out bytes.Buffer
			// Without -T: Debian's static busybox dies of it.
			err := w.Kubectl(t.Context(), Streams{Out: &out},
				"exec", pod, "--", "wget", "-q", "-O", "-", "http://"+service.Spec.ClusterIP+"/index.html")
			return err == nil && out.String() == "page of a\n"
		})
	}
	// The API server reaches pods, as it must for webhooks.
	body, err := w.client.CoreV1().Services("default").ProxyGet("http", "a", "80", "index.html", nil).DoRaw(t.Context())
	if err != nil || string(body) != "page of a\n" {
		t.Errorf("by way of the API server: %q, %v", body, err)
	}
	for _, url := range []string{
		"http://" + w.b.Status.PodIP + ":8080/index.html",
		"http://" + service.Spec.ClusterIP + "/index.html",
	} {
		body, err := fetch(t, http.DefaultClient, url, "")
		if err != nil || !strings.HasPrefix(body, "page of ") {
			t.Errorf("%s from the machine: %q, %v", url, body, err)
		}
	}
}

func poll10(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := poll(ctx, 200*time.Millisecond, func() (bool, error) { return done(), nil }); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

func fetch(t *testing.T, client *http.Client, url, token string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", response.Status)
	}
	return string(body), err
}

func (w *world) testLogsAndExec(t *testing.T) {
	var logs bytes.Buffer
	if err := w.Kubectl(t.Context(), Streams{Out: &logs}, "logs", "a"); err != nil || logs.String() != "log of a\n" {
		t.Errorf("kubectl logs: %q, %v", logs.String(), err)
	}
	if got := w.exec(t, "b", "echo", "hello"); got != "hello\n" {
		t.Errorf("kubectl exec: %q", got)
	}
	for _, node := range w.Nodes() {
		out, err := w.NodeOutput(t.Context(), node.Name, "hostname")
		if err != nil || string(out) != node.Name+"\n" {
			t.Errorf("hostname on %s: %q, %v", node.Name, out, err)
		}
	}
	if _, err := w.NodeOutput(t.Context(), "node-9", "hostname"); err == nil {
		t.Error("a command ran on a node that does not exist")
	}
}

// token makes a service account and a token for it.
func (w *world) token(t *testing.T, name string) string {
	t.Helper()
	accounts := w.client.CoreV1().ServiceAccounts("default")
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := accounts.Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	request, err := accounts.CreateToken(t.Context(), name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return request.Status.Token
}

func (w *world) httpClient(t *testing.T) *http.Client {
	t.Helper()
	ca, err := os.ReadFile(w.layout.pki("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (w *world) testKubeletAPI(t *testing.T) {
	allowed, refused := w.token(t, "kubelet-reader"), w.token(t, "nobody")
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "kubelet-reader"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"nodes/proxy"}, Verbs: []string{"get"}}},
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "kubelet-reader"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "kubelet-reader"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "default", Name: "kubelet-reader"}},
	}
	if _, err := w.client.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	url, client := "https://10.77.0.11:10250/pods", w.httpClient(t)
	if body, err := fetch(t, client, url, allowed); err != nil || !strings.Contains(body, `"name":"a"`) {
		t.Errorf("with the right: %v, %.100s", err, body)
	}
	for name, token := range map[string]string{"without the right": refused, "without a token": ""} {
		if _, err := fetch(t, client, url, token); err == nil || !strings.Contains(err.Error(), "status 40") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func (w *world) testPropagation(t *testing.T) {
	pod := testPod("propagation", "node-1", "/bin/sh", "-c",
		"mkdir -p /var/lib/kubelet/probe && mount -t tmpfs probe /var/lib/kubelet/probe && exec sleep 1000")
	both, yes := corev1.MountPropagationBidirectional, true
	pod.Spec.Volumes = []corev1.Volume{{Name: "kubelet", VolumeSource: corev1.VolumeSource{
		HostPath: &corev1.HostPathVolumeSource{Path: "/var/lib/kubelet"}}}}
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
		{Name: "kubelet", MountPath: "/var/lib/kubelet", MountPropagation: &both}}
	w.create(t, pod)
	count := func(node string) int {
		out, err := w.NodeOutput(t.Context(), node, "cat", "/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(out), " /var/lib/kubelet/probe ")
	}
	poll10(t, "mount on node-1", func() bool { return count("node-1") == 1 })
	if n := count("node-2"); n != 0 {
		t.Errorf("node-2 has the mount %d times", n)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), "/kubelet/probe") {
		t.Errorf("the machine has the mount (%v)", err)
	}
}

func (w *world) testAuditLog(t *testing.T) {
	start := time.Now()
	token := w.token(t, "audited")
	url := "https://10.77.0.1:6443/api/v1/namespaces/default/configmaps"
	for range 3 { // refused requests are requests
		if _, err := fetch(t, w.httpClient(t), url, token); err == nil {
			t.Fatal("an account without rights was let in")
		}
	}
	events, err := w.AuditEvents(start)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, event := range events {
		if !strings.HasPrefix(event.User, "system:serviceaccount:") {
			t.Errorf("a request of %s is logged", event.User)
		}
		if event.User == "system:serviceaccount:default:audited" && event.Verb == "list" && event.Code == http.StatusForbidden {
			found++
		}
	}
	if found != 3 {
		t.Errorf("the log has %d events of 3 requests", found)
	}
}

func (w *world) testRestarts(t *testing.T) {
	container := w.a.Status.ContainerStatuses[0].ContainerID
	if err := w.RestartKubelet(t.Context(), "node-1"); err != nil {
		t.Fatal(err)
	}
	if err := w.RestartContainerd(t.Context(), "node-1"); err != nil {
		t.Fatal(err)
	}
	poll10(t, "exec after restarts", func() bool {
		return w.Kubectl(t.Context(), Streams{}, "exec", "a", "--", "echo") == nil
	})
	now := w.await(t, "a", func(*corev1.Pod) bool { return true })
	if got := now.Status.ContainerStatuses[0].ContainerID; got != container {
		t.Errorf("the container was replaced: %s, before %s", got, container)
	}
	if err := w.RebootNode(t.Context(), "node-1"); err != nil {
		t.Fatal(err)
	}
	w.await(t, "a", func(p *corev1.Pod) bool {
		status := p.Status.ContainerStatuses[0]
		return status.Ready && status.RestartCount == 1 && status.ContainerID != container
	})
	if b := w.await(t, "b", func(*corev1.Pod) bool { return true }); b.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Error("the reboot of node-1 touched node-2")
	}
	if out, err := w.NodeOutput(t.Context(), "node-1", "cat", "/proc/self/mountinfo"); err != nil ||
		strings.Count(string(out), " /var/lib/kubelet ") != 1 {
		t.Errorf("node-1 has /var/lib/kubelet mounted not once (%v):\n%s", err, out)
	}
}

// testDown leaves what a failed test of a driver leaves: a FUSE mount whose
// server never answers with a process stuck in it, and an immutable file.
func (w *world) testDown(t *testing.T) {
	node := w.layout.machine("node-1")
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	err = node.do(func() error {
		if err := os.Mkdir("/var/lib/juicefs/stuck", 0o755); err != nil {
			return err
		}
		options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)
		return unix.Mount("stuck", "/var/lib/juicefs/stuck", "fuse.test", 0, options)
	})
	if err != nil {
		t.Fatal(err)
	}
	stuck := make(chan error, 1)
	go func() {
		_, err := w.NodeOutput(context.Background(), "node-1", "ls", "/var/lib/juicefs/stuck/x")
		stuck <- err
	}()
	// The kernel has sent INIT when the descriptor is readable.
	poll10(t, "FUSE request", func() bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n == 1
	})
	if out, err := exec.Command("chattr", "+i", w.layout.nodeDir("node-1", "var-lib-juicefs")).CombinedOutput(); err != nil {
		t.Fatalf("chattr: %v: %s", err, out)
	}
	start := time.Now()
	if err := Down(t.Context(), testDir, testWriter{t}); err != nil {
		t.Fatal(err)
	}
	t.Logf("down took %v", time.Since(start))
	select {
	case err := <-stuck:
		if err == nil {
			t.Error("the stuck process succeeded")
		}
	case <-time.After(testTimeout):
		t.Error("a process is still stuck in the FUSE mount")
	}
}
