module example.org/cachetory-go

go 1.19
