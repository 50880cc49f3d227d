//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/test/devcluster"
)

// restrictedNamespace is where mount pods must be admitted by the strictest
// level of Pod Security.
const restrictedNamespace = "juicefs-mounts"

func TestMountPodsRunInARestrictedNamespace(t *testing.T) {
	s := newScene(t)
	_, err := env.kube.CoreV1().Namespaces().Create(s.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: restrictedNamespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}, metav1.CreateOptions{})
	s.must(err)
	s.Cleanup(func() {
		_ = env.kube.CoreV1().Namespaces().Delete(s.ctx, restrictedNamespace, metav1.DeleteOptions{})
	})
	s.reinstall("global.mountNamespace="+restrictedNamespace, "mountmgr.launcher.source=initContainer")

	redisCommands(t, "SELECT 13", "FLUSHDB", "SELECT 14", "FLUSHDB")
	fs := s.fileSystem("fs-restricted", map[string]string{
		"name": "fs-restricted", "metaurl": "redis://" + devcluster.RedisAddress + "/13",
		"storage": "redis", "bucket": "redis://" + devcluster.RedisAddress + "/14",
	})
	volume := s.staticBare(fs, "data", map[string]string{
		"csi.juicefs.com/run-as-user": "10001", "csi.juicefs.com/run-as-group": "10001", "csi.juicefs.com/fs-group": "10001",
		"juicefs/mount-cache-emptydir": ":64Mi",
	})
	s.app("app", "data", onNode("node-1"))
	s.running("app")
	s.write("app", "/data/f", "written by a client without root")
	s.reads("app", "/data/f", "written by a client without root")
	pods, err := env.kube.CoreV1().Pods(restrictedNamespace).List(s.ctx, metav1.ListOptions{LabelSelector: "volume-id=" + volume.Name})
	s.must(err)
	if len(pods.Items) != 1 {
		t.Fatalf("%d mount pods", len(pods.Items))
	}
	s.unprivileged(&pods.Items[0])
	s.deleteApp("app")
	s.eventually("the mount pod is gone", func() error {
		pods, err := env.kube.CoreV1().Pods(restrictedNamespace).List(s.ctx, metav1.ListOptions{LabelSelector: "volume-id=" + volume.Name})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("pod %s", pods.Items[0].Name)
		}
		return err
	})
}
