module github.com/juicefs-csi/driver/services/dashboard

go 1.26.0

require (
	github.com/juicefs-csi/driver/libs v0.0.0
	github.com/juicefs-csi/driver/proto v0.0.0
	k8s.io/api v0.37.2
	k8s.io/apimachinery v0.37.2
	k8s.io/client-go v0.37.2
	google.golang.org/protobuf v1.36.12
	connectrpc.com/connect v1.21.1
	github.com/spf13/pflag v1.0.10
	github.com/prometheus/client_golang v1.24.1
	github.com/google/go-cmp v0.7.0
)

replace (
	github.com/juicefs-csi/driver/libs => ../../libs
	github.com/juicefs-csi/driver/proto => ../../proto
)
