module example.org/cachetory-loop

go 1.19
